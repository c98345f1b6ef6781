"""The files of an experiment merged by Hydra, once for each choice of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from components.registry import revision
from lab.composition import extensions, search_path
from lab.composition.hydra import groups
from lab.composition.hydra.internals import Loader
from lab.composition.hydra.origin import Origin
from lab.composition.plain import Plain


@dataclass(frozen=True)
class Merged:
    """The files of an experiment, merged under a choice of groups.

    Attributes:
        config: what they say, interpolations not resolved. Not to be changed.
        choices: the option chosen for each group: {"model": "gemma2_tiny", "model/heads": "gqa", …}.
        origin: which file set what.
    """

    config: DictConfig
    choices: Mapping[str, str]
    origin: Origin

    @cached_property
    def plain(self) -> Plain | None:
        """The configuration as dicts and lists; None if it has interpolations, which only OmegaConf can resolve.

        Not to be changed.
        """
        plain = OmegaConf.to_container(self.config, resolve=False)
        assert isinstance(plain, dict)
        return None if _interpolates(plain) else {str(key): value for key, value in plain.items()}


def merge(path: Path, choices: tuple[str, ...]) -> Merged:
    """Merge the files that an experiment's file and choices of groups (`model/heads=mha`) come to.

    Raises:
        HydraException, OmegaConfBaseException: the files or the choices don't go together.
    """
    search = tuple(f"file://{root}" for root in search_path.roots("experiments") if root != path.parent)
    return _merge(path, choices, search, search_path.version(), f"{extensions.current()} {revision()}")


@lru_cache(maxsize=1024)
def _merge(path: Path, choices: tuple[str, ...], search: tuple[str, ...], version: str, registered: str) -> Merged:
    config, chosen, files = _loader(path, search, version, registered).merge(choices)
    return Merged(config, chosen, Origin(path, files, version))


@lru_cache(maxsize=4)
def _loader(path: Path, search: tuple[str, ...], version: str, registered: str) -> Loader:
    """Hydra's loader; `version` and `registered` make it read everything anew."""
    groups.store()
    return Loader(path.parent, path.stem, search)


def _interpolates(value: object) -> bool:
    if isinstance(value, dict):
        return any(_interpolates(item) for item in value.values())
    if isinstance(value, list):
        return any(_interpolates(item) for item in value)
    return isinstance(value, str) and "$" in value

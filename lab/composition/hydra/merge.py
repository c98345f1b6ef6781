"""Merge the files of an experiment with Hydra, once for each choice of groups."""

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
    """The merged files of an experiment for a choice of groups.

    Attributes:
        config: the merged configuration, with interpolations. Callers must not change it.
        choices: group → chosen option: {"model": "gemma2_tiny", "model/heads": "gqa", …}.
        origin: the files that set each key.
    """

    config: DictConfig
    choices: Mapping[str, str]
    origin: Origin

    @cached_property
    def plain(self) -> Plain | None:
        """The configuration as dicts and lists; None if it has interpolations, which only OmegaConf can resolve.

        Callers must not change it.
        """
        plain = OmegaConf.to_container(self.config, resolve=False)
        assert isinstance(plain, dict)
        return None if _interpolates(plain) else {str(key): value for key, value in plain.items()}


def merge(path: Path, choices: tuple[str, ...]) -> Merged:
    """Merge the file of an experiment with the files that its defaults and the choices of groups name.

    Args:
        path: the experiment's file.
        choices: choices of groups: `model/heads=mha`.
    Raises:
        HydraException, OmegaConfBaseException: the files and the choices can't be combined.
    """
    search = tuple(f"file://{root}" for root in search_path.roots("experiments") if root != path.parent)
    return _merge(path, choices, search, search_path.version(), f"{extensions.loaded_digest()} {revision()}")


@lru_cache(maxsize=1024)
def _merge(path: Path, choices: tuple[str, ...], search: tuple[str, ...], version: str, registered: str) -> Merged:
    config, options, files = _loader(path, search, version, registered).merge(choices)
    return Merged(config, options, Origin(path, files, version))


@lru_cache(maxsize=4)
def _loader(path: Path, search: tuple[str, ...], version: str, registered: str) -> Loader:
    """Hydra's loader. A change of `version` or `registered` gives a new one, which reads all files again."""
    groups.store_components()
    return Loader(path.parent, path.stem, search)


def _interpolates(value: object) -> bool:
    if isinstance(value, dict):
        return any(_interpolates(item) for item in value.values())
    if isinstance(value, list):
        return any(_interpolates(item) for item in value)
    return isinstance(value, str) and "$" in value

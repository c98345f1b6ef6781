"""Hydra's part of a composition: the files of an experiment merged, once for each choice of groups.

Hydra is asked for the defaults list and the merge, without its own settings and with what it has read kept: composing
through `hydra.compose` takes three times as long and reads each file twice. A test holds that both give the same.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from components.registry import generation
from lab.composition import extensions, search_path
from lab.composition.hydra import groups
from lab.composition.hydra.origin import Origin


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
    def plain(self) -> dict[str, Any] | None:
        """The configuration as dicts and lists; None if it has interpolations, which only OmegaConf can resolve.

        Not to be changed.
        """
        plain = OmegaConf.to_container(self.config, resolve=False)
        assert isinstance(plain, dict)
        return None if _interpolates(plain) else plain  # type: ignore[return-value]


def merge(path: Path, choices: tuple[str, ...]) -> Merged:
    """Merge the files that an experiment's file and choices of groups (`model/heads=mha`) come to.

    Raises:
        HydraException, OmegaConfBaseException: the files or the choices don't go together.
    """
    return _merge(path, choices, _search_path(path), search_path.version(), f"{extensions.current()} {generation()}")


@lru_cache(maxsize=1024)
def _merge(path: Path, choices: tuple[str, ...], search: tuple[str, ...], version: str, registered: str) -> Merged:
    loader, repository = _loader(path, search, version, registered)
    try:
        found = _defaults(repository, path, choices, with_hydra=False)
    except HydraException:  # such as a file that overrides one of Hydra's own groups
        found = _defaults(repository, path, choices, with_hydra=True)
    config = loader._compose_config_from_defaults_list(found.defaults, _Copies(repository))
    config.pop("hydra", None)
    chosen = {str(group): str(option) for group, option in found.overrides.known_choices.items()}
    chosen = {group: option for group, option in chosen.items() if not group.startswith("hydra/")}
    files = [
        (default.config_path or "", default.package or "", bool(default.primary))
        for default in found.defaults
        if not (default.config_path or "").startswith("hydra/")
    ]
    return Merged(config, chosen, Origin(path, files, version))


def _defaults(
    repository: CachingConfigRepository, path: Path, choices: tuple[str, ...], *, with_hydra: bool
) -> DefaultsList:
    return create_defaults_list(
        repo=repository,
        config_name=path.stem,
        overrides_list=OverridesParser.create().parse_overrides([*choices]),
        prepend_hydra=with_hydra,
        skip_missing=False,
    )


@lru_cache(maxsize=4)
def _loader(path: Path, search: tuple[str, ...], version: str, registered: str) -> tuple[Any, CachingConfigRepository]:
    """Hydra's loader, and its files and components as read so far; `version` and `registered` make it read anew."""
    groups.store()
    with initialize_config_dir(version_base="1.3", config_dir=str(path.parent)):
        loader: Any = GlobalHydra.instance().config_loader()
    loader.ensure_main_config_source_available()
    arguments = [f"hydra.searchpath=[{','.join(search)}]"] if search else []
    return loader, loader._parse_overrides_and_create_caching_repo(path.stem, arguments)[1]


class _Copies(CachingConfigRepository):
    """A repository whose configurations are copies: merging takes their nodes over and changes them."""

    def __init__(self, delegate: CachingConfigRepository) -> None:
        self.delegate, self.cache = delegate, {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        found = self.delegate.load_config(config_path)
        if found is not None:
            found = copy.copy(found)
            found.config = copy.deepcopy(found.config)
        return found


def _search_path(path: Path) -> tuple[str, ...]:
    return tuple(f"file://{root}" for root in search_path.roots("experiments") if root != path.parent)


def _interpolates(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_interpolates(item) for item in value.values())
    if isinstance(value, list):
        return any(_interpolates(item) for item in value)
    return isinstance(value, str) and "$" in value

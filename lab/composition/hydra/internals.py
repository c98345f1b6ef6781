"""All uses of Hydra's private interfaces.

Hydra's public `compose` takes three times as long, reads each file twice, and doesn't tell which files it merged and
where it put each of them, which messages and swaps need. tests/composition/test_fast_path.py checks that the result is
that of `hydra.compose`, and fails if a version of Hydra changes one of these interfaces.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig


@dataclass(frozen=True)
class MergedFile:
    """A file that Hydra merged.

    Attributes:
        path: its path within Hydra's search path, without the suffix: `model/gemma2_tiny`.
        package: the dotted path below which its keys are placed.
        is_primary: whether it is the experiment's own file.
    """

    path: str
    package: str
    is_primary: bool


class Loader:
    """Hydra's loader, which caches the files that it has read. After a file changes, a new loader is needed."""

    def __init__(self, folder: Path, name: str, search: tuple[str, ...]) -> None:
        """
        Args:
            folder: the folder with the primary configuration.
            name: the name of the primary configuration.
            search: more places to search, in Hydra's notation: `file:///…`.
        """
        with initialize_config_dir(version_base="1.3", config_dir=str(folder)):
            loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        loader.ensure_main_config_source_available()
        arguments = [f"hydra.searchpath=[{','.join(search)}]"] if search else []
        self._name = name
        self._loader = loader
        self._repository = loader._parse_overrides_and_create_caching_repo(name, arguments)[1]

    def merge(self, choices: tuple[str, ...]) -> tuple[DictConfig, dict[str, str], list[MergedFile]]:
        """Merge the files.

        Args:
            choices: choices of groups: `model/heads=mha`.
        Returns:
            The merged configuration without Hydra's own part, group → chosen option, and the files in order.
        Raises:
            HydraException, OmegaConfBaseException: the files and the choices can't be combined.
        """
        overrides = OverridesParser.create().parse_overrides([*choices])
        create = partial(create_defaults_list, self._repository, self._name, overrides, skip_missing=False)
        try:
            defaults = create(prepend_hydra=False)
        except HydraException:  # such as a file that overrides one of Hydra's own groups
            defaults = create(prepend_hydra=True)
        config = self._loader._compose_config_from_defaults_list(defaults.defaults, _Copies(self._repository))
        config.pop("hydra", None)
        chosen_options = {str(group): str(option) for group, option in defaults.overrides.known_choices.items()}
        files = [
            MergedFile(default.config_path or "", default.package or "", bool(default.primary))
            for default in defaults.defaults
        ]
        return (
            config,
            {group: option for group, option in chosen_options.items() if not group.startswith("hydra/")},
            [file for file in files if not file.path.startswith("hydra/")],
        )


class _Copies(CachingConfigRepository):
    """A repository that gives copies of its configurations, because merging changes their nodes."""

    def __init__(self, delegate: CachingConfigRepository) -> None:
        self.delegate, self.cache = delegate, {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        result = self.delegate.load_config(config_path)
        if result is not None:
            result = copy.copy(result)
            result.config = copy.deepcopy(result.config)
        return result

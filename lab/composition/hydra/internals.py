"""Everything of Hydra that isn't public and that the lab uses, in one place.

Hydra's public `compose` takes three times as long, reads each file twice, and doesn't say which files it merged and
where each was put, which messages and swaps need. tests/composition/test_hydra_internals.py says what breaks where a
version of Hydra changes one of these, and test_fast_path.py that the result is the one of `hydra.compose`.
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
    """A file that took part in a merge.

    Attributes:
        path: within Hydra's search path, without the ending: `model/gemma2_tiny`.
        package: the dotted path below which its keys are put.
        is_primary: whether it is the experiment's own.
    """

    path: str
    package: str
    is_primary: bool


class Loader:
    """Hydra's loader with what it has read so far; edited files need another one."""

    def __init__(self, folder: Path, name: str, search: tuple[str, ...]) -> None:
        """
        Args:
            folder: that holds the primary configuration.
            name: of the primary configuration.
            search: more places to search, as Hydra writes them: `file:///…`.
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
        """The merged configuration without Hydra's own part, the option chosen for each group, and the files in order.

        Args:
            choices: of groups: `model/heads=mha`.
        Raises:
            HydraException, OmegaConfBaseException: the files or the choices don't go together.
        """
        overrides = OverridesParser.create().parse_overrides([*choices])
        create = partial(create_defaults_list, self._repository, self._name, overrides, skip_missing=False)
        try:
            defaults = create(prepend_hydra=False)
        except HydraException:  # such as a file that overrides one of Hydra's own groups
            defaults = create(prepend_hydra=True)
        config = self._loader._compose_config_from_defaults_list(defaults.defaults, _Copies(self._repository))
        config.pop("hydra", None)
        known = {str(group): str(option) for group, option in defaults.overrides.known_choices.items()}
        files = [
            MergedFile(default.config_path or "", default.package or "", bool(default.primary))
            for default in defaults.defaults
        ]
        return (
            config,
            {group: option for group, option in known.items() if not group.startswith("hydra/")},
            [file for file in files if not file.path.startswith("hydra/")],
        )


class _Copies(CachingConfigRepository):
    """A repository whose configurations are copies: merging takes their nodes over and changes them."""

    def __init__(self, delegate: CachingConfigRepository) -> None:
        self.delegate, self.cache = delegate, {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        result = self.delegate.load_config(config_path)
        if result is not None:
            result = copy.copy(result)
            result.config = copy.deepcopy(result.config)
        return result

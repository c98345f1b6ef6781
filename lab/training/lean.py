"""Import Lightning without libraries that the lab doesn't need from it, which halves the start-up time of a process.

Lightning imports torchmetrics, which imports scipy.signal and transformers if they are installed, for metrics of audio
and text. This module hides them while torchmetrics is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from types import ModuleType
from typing import Any

IMPORTER = "torchmetrics"
UNUSED = frozenset({"matplotlib", "scipy", "transformers"})


class _Lean(MetaPathFinder, Loader):
    """Finds torchmetrics with the usual finders, and executes it with the usual loader while libraries are hidden."""

    def __init__(self) -> None:
        self._loader: Loader | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != IMPORTER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        assert self._loader is not None
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert self._loader is not None
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        with _hidden(UNUSED):
            self._loader.exec_module(module)


@contextmanager
def _hidden(names: frozenset[str]) -> Iterator[None]:
    """Hide libraries from lightning_utilities, which torchmetrics uses to look for them."""
    from lightning_utilities.core import imports

    module: Any = imports
    version, available = module._version, module.package_available

    def visible_version(name: str) -> str:
        if name in names:
            raise PackageNotFoundError(name)
        installed: str = version(name)
        return installed

    module._version, module.package_available = visible_version, lambda name: name not in names and available(name)
    try:
        yield
    finally:
        module._version, module.package_available = version, available


def install() -> None:
    """Install the finder. Call this before anything imports Lightning."""
    if IMPORTER not in sys.modules and not any(isinstance(finder, _Lean) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Lean())

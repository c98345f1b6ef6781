"""Lightning without what it imports and the lab never uses: a process starts in half of the time.

Lightning imports torchmetrics, which imports scipy.signal and transformers where they are installed, for metrics of
sound and of text. While it is being imported, they are not installed.
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
    """Finds torchmetrics as everybody does, and executes it by the loader that was found."""

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
        with _not_installed(UNUSED):
            self._loader.exec_module(module)


@contextmanager
def _not_installed(names: frozenset[str]) -> Iterator[None]:
    """As torchmetrics asks: by lightning_utilities."""
    from lightning_utilities.core import imports

    asked: Any = imports
    version, available = asked._version, asked.package_available

    def visible_version(name: str) -> str:
        if name in names:
            raise PackageNotFoundError(name)
        found: str = version(name)
        return found

    asked._version, asked.package_available = visible_version, lambda name: name not in names and available(name)
    try:
        yield
    finally:
        asked._version, asked.package_available = version, available


def install() -> None:
    """Before anything imports Lightning."""
    if IMPORTER not in sys.modules and not any(isinstance(finder, _Lean) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Lean())

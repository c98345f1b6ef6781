"""Where experiments, sweeps and launchers are found: in the user's working folder first, then among those shipped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from lab.code_version import PACKAGE
from lab.composition import memo
from lab.refusals import RequestError

Folder = Literal["experiments", "sweeps", "launchers"]

FOLDERS: tuple[Folder, ...] = ("experiments", "sweeps", "launchers")

_first: ContextVar[Path | None] = ContextVar("searched_first", default=None)


def shipped(what: Folder) -> Path:
    """The lab's own folder of that name: beside a checkout's packages, inside a wheel."""
    installed = PACKAGE / "shipped" / what
    return installed if installed.is_dir() else PACKAGE.parent / what


@contextmanager
def searched_first(folder: Path | None) -> Iterator[None]:
    """Search another folder for experiments before all others, for the length of the context."""
    token = _first.set(folder)
    try:
        with memo.separate_scope():
            yield
    finally:
        _first.reset(token)


def roots(what: Folder) -> list[Path]:
    """The folders of that name, in the order in which they are searched."""
    return list(memo.cached(("roots", what), lambda: _roots(what)))


def _roots(what: Folder) -> list[Path]:
    own, first = Path.cwd() / what, _first.get()
    folders = [first.resolve()] if first is not None and what == "experiments" else []
    folders += [own] if own.is_dir() else []
    if shipped(what).is_dir() and not any(folder.samefile(shipped(what)) for folder in folders):
        folders.append(shipped(what))
    return folders


def available(what: Folder, group: str = "") -> dict[str, Path]:
    """YAML files by name, directly in the folders or in a group's subfolder; of equal names the first found wins."""
    return dict(memo.cached(("available", what, group), lambda: _available(what, group)))


def _available(what: Folder, group: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for root in roots(what):
        for path in sorted((root / group).glob("*.yaml")):
            files.setdefault(path.stem, path)
    return files


def experiment_files() -> Iterator[Path]:
    """Every YAML file that a composition may read."""
    return (file for root in roots("experiments") for file in sorted(root.rglob("*.yaml")))


def version() -> str:
    """Changes whenever one of the `experiment_files` does."""
    return memo.cached("version", _version)


def _version() -> str:
    stats = [(str(root), str(file), file.stat()) for root in roots("experiments") for file in root.rglob("*.yaml")]
    stamps = sorted((root, file, stat.st_mtime_ns, stat.st_size) for root, file, stat in stats)
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def find(what: Folder, name: str) -> Path:
    """The YAML file of a named experiment, sweep or launcher.

    Raises:
        RequestError: naming the nearest.
    """
    known = available(what)
    if name not in known:
        singular = {"experiments": "experiment", "sweeps": "sweep", "launchers": "launcher"}[what]
        raise RequestError(f"no {singular} is called '{name}'", kind="not_found", given=name, expected=tuple(known))
    return known[name]


def display(path: Path) -> str:
    """A path as a user would name it: relative to the working folder, or `sweeps/…` for what ships with the lab."""
    return memo.cached(("display", path), lambda: _display(path))


def _display(path: Path) -> str:
    path = path.resolve()
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    for what in FOLDERS:
        if path.is_relative_to(shipped(what).resolve()):
            return f"{what}/{path.relative_to(shipped(what).resolve())}"
    return str(path)

"""The search path for experiments, sweeps and launchers: the working folder first, then the files of the lab."""

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
    """The lab's own folder of that name: beside the packages in a checkout, inside the package in a wheel."""
    installed = PACKAGE / "shipped" / what
    return installed if installed.is_dir() else PACKAGE.parent / what


@contextmanager
def searched_first(folder: Path | None) -> Iterator[None]:
    """A context in which experiments are searched in another folder first; None changes nothing."""
    token = _first.set(folder)
    try:
        with memo.separate_scope():
            yield
    finally:
        _first.reset(token)


def roots(what: Folder) -> list[Path]:
    """The folders of that name, in the order of the search."""
    return list(memo.cached(("roots", what), lambda: _roots(what)))


def _roots(what: Folder) -> list[Path]:
    own, first = Path.cwd() / what, _first.get()
    folders = [first.resolve()] if first is not None and what == "experiments" else []
    folders += [own] if own.is_dir() else []
    if shipped(what).is_dir() and not any(folder.samefile(shipped(what)) for folder in folders):
        folders.append(shipped(what))
    return folders


def available(what: Folder, group: str = "") -> dict[str, Path]:
    """Name → YAML file, directly in the folders or in the subfolder of a group. The first folder with a name wins."""
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
    """A hash that changes whenever one of the `experiment_files` changes."""
    return memo.cached("version", _version)


def _version() -> str:
    stats = [(str(root), str(file), file.stat()) for root in roots("experiments") for file in root.rglob("*.yaml")]
    stamps = sorted((root, file, stat.st_mtime_ns, stat.st_size) for root, file, stat in stats)
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def find_config(what: Folder, name: str) -> Path:
    """The YAML file of an experiment, sweep or launcher by name.

    Raises:
        RequestError: there is none; with the nearest name.
    """
    files = available(what)
    if name not in files:
        singular = {"experiments": "experiment", "sweeps": "sweep", "launchers": "launcher"}[what]
        raise RequestError(f"no {singular} is called '{name}'", kind="not_found", given=name, expected=tuple(files))
    return files[name]


def display(path: Path) -> str:
    """A path for messages: relative to the working folder, or such as `sweeps/…` for a file of the lab."""
    return memo.cached(("display", path), lambda: _display(path))


def _display(path: Path) -> str:
    path = path.resolve()
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    for what in FOLDERS:
        if path.is_relative_to(shipped(what).resolve()):
            return f"{what}/{path.relative_to(shipped(what).resolve())}"
    return str(path)

"""Where experiments and sweeps are found: the user's working folder first, then what ships with the lab."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import yaml

import lab
from components.registry import generation, suggestion
from lab.refusals import RequestError

T = TypeVar("T")

_first: ContextVar[Path | None] = ContextVar("searched_first", default=None)
_steady: ContextVar[dict[Hashable, Any] | None] = ContextVar("steady", default=None)


@contextmanager
def steady() -> Iterator[None]:
    """For the length of the context, files and what is registered are taken to stay as they are.

    What `remembered` works out is then worked out once. A plan of thousands of runs needs this; contexts nest.
    """
    token = _steady.set({} if _steady.get() is None else _steady.get())
    try:
        yield
    finally:
        _steady.reset(token)


def remembered(key: Hashable, work_out: Callable[[], T]) -> T:
    """What `work_out` gives, kept for the length of the context of `steady`; outside of one it is worked out anew.

    Args:
        key: all that the result depends on, apart from files and from what is registered.
    """
    known = _steady.get()
    if known is None:
        return work_out()
    whole = (key, generation(), _first.get(), os.getcwd())
    try:
        found: T = known[whole]
    except KeyError:
        found = known[whole] = work_out()
    return found


class Same:
    """A key that is equal only to one of the very same object."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value


def shipped(what: str) -> Path:
    """The lab's own `experiments`, `sweeps` or `launchers`: beside a checkout's packages, inside a wheel."""
    package = Path(lab.__file__).parent
    installed = package / "shipped" / what
    return installed if installed.is_dir() else package.parent / what


@contextmanager
def searched_first(folder: Path | None) -> Iterator[None]:
    """Search another folder for experiments before all others, for the length of the context."""
    token = _first.set(folder)
    try:
        yield
    finally:
        _first.reset(token)


def roots(what: str) -> list[Path]:
    """Folders that hold `experiments` or `sweeps`, first in the search order first."""
    return list(remembered(("roots", what), lambda: _roots(what)))


def _roots(what: str) -> list[Path]:
    own, first = Path.cwd() / what, _first.get()
    found = [first.resolve()] if first is not None and what == "experiments" else []
    found += [own] if own.is_dir() else []
    if shipped(what).is_dir() and not any(path.samefile(shipped(what)) for path in found):
        found.append(shipped(what))
    return found


def available(what: str, group: str = "") -> dict[str, Path]:
    """YAML files by name, directly in `experiments`, `sweeps` or a group's subfolder; the first found wins."""
    return dict(remembered(("available", what, group), lambda: _available(what, group)))


def _available(what: str, group: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for root in roots(what):
        for path in sorted((root / group).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def version() -> str:
    """Changes whenever a file does that a composition may read: a YAML file below a folder of `experiments`."""
    return remembered("version", _version)


def _version() -> str:
    found = [(str(root), str(file), file.stat()) for root in roots("experiments") for file in root.rglob("*.yaml")]
    stamps = sorted((root, file, stat.st_mtime_ns, stat.st_size) for root, file, stat in found)
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def find(what: str, name: str) -> Path:
    """The YAML file of a named experiment or sweep.

    Raises:
        RequestError: naming the nearest.
    """
    known = available(what)
    if name not in known:
        raise RequestError(f"no {what.removesuffix('s')} is called '{name}'{suggestion(name, known)}")
    return known[name]


def display(path: Path) -> str:
    """A path as a user would name it: relative to the working folder, or `<what>/…` for what ships with the lab."""
    return remembered(("display", path), lambda: _display(path))


def _display(path: Path) -> str:
    path = path.resolve()
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    for what in ("experiments", "sweeps", "launchers"):
        if path.is_relative_to(shipped(what).resolve()):
            return f"{what}/{path.relative_to(shipped(what).resolve())}"
    return str(path)


def not_yaml(path: Path, error: yaml.YAMLError | UnicodeDecodeError) -> RequestError:
    """What a user is told of a file that can't be read as YAML: the file, the line and what is wrong there."""
    if isinstance(error, UnicodeDecodeError):
        return RequestError(f"{display(path)}: not UTF-8 text: {error.reason} at byte {error.start}")
    if not isinstance(error, yaml.MarkedYAMLError):
        said = str(error).splitlines()[0]  # and then where, in the file as PyYAML names it
        return RequestError(f"{display(path)}: not YAML: {said}")
    mark = error.problem_mark or error.context_mark
    line = f":{mark.line + 1}" if mark else ""
    said = ", ".join(text for text in (error.context, error.problem) if text)
    return RequestError(f"{display(path)}{line}: not YAML: {said}")


def unreadable(error: yaml.YAMLError | UnicodeDecodeError) -> RequestError:
    """The same for an error that was met while experiments were read: it knows its file, or that file is looked for."""
    mark = error.problem_mark or error.context_mark if isinstance(error, yaml.MarkedYAMLError) else None
    name = mark.name if mark else getattr(error, "name", None)  # a ReaderError has one
    return not_yaml(Path(name) if name else next(filter(_is_no_text, _files()), Path("experiments")), error)


def _files() -> Iterator[Path]:
    return (file for root in roots("experiments") for file in sorted(root.rglob("*.yaml")))


def _is_no_text(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return True
    return False

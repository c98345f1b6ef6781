"""Where experiments and sweeps are found: the user's working folder first, then what ships with the lab."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import lab
from components.registry import suggestion
from lab.errors import RequestError

_first: ContextVar[Path | None] = ContextVar("searched_first", default=None)


def shipped(what: str) -> Path:
    """The lab's own `experiments` or `sweeps`: beside the packages in a checkout, inside them in an installed wheel."""
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
    own, first = Path.cwd() / what, _first.get()
    found = [first.resolve()] if first is not None and what == "experiments" else []
    found += [own] if own.is_dir() else []
    if shipped(what).is_dir() and not any(path.samefile(shipped(what)) for path in found):
        found.append(shipped(what))
    return found


def available(what: str, group: str = "") -> dict[str, Path]:
    """YAML files by name, directly in `experiments`, `sweeps` or a group's subfolder; the first found wins."""
    found: dict[str, Path] = {}
    for root in roots(what):
        for path in sorted((root / group).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


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
    path = path.resolve()
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    for what in ("experiments", "sweeps"):
        if path.is_relative_to(shipped(what).resolve()):
            return f"{what}/{path.relative_to(shipped(what).resolve())}"
    return str(path)

"""Components of your own: `lab_components.py` in the working folder, and packages that are installed beside the lab.

What they register is then as good as built in: it composes, is listed, completes, and is part of a run's identity. A
package says where its components are by an entry point of the group `architecture_lab.components`. A run that uses the
file keeps a copy of it, and a worker loads that copy, wherever it runs and whatever has been edited since.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from components import registry
from components.registry import Component
from lab.records import Extensions, RunRecord
from lab.refusals import RequestError, one_line

FILE = "lab_components.py"
MODULE = "lab_components"
GROUP = "architecture_lab.components"


@dataclass(frozen=True)
class OwnFile:
    """A file of components as it was read."""

    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class _Loaded:
    """What this process has loaded. `held` keeps a run's own copy in force against the working folder's file."""

    file: OwnFile | None = None
    packages: dict[str, metadata.EntryPoint] | None = None
    held: bool = False


_loaded = _Loaded()


def load() -> None:
    """Register what installed packages and the working folder's file bring. Costs nothing if that has been done.

    Raises:
        RequestError: they fail to load, or take a name that is taken; with the file and line.
    """
    if _loaded.held:
        return
    _load_packages()
    path = Path.cwd() / FILE
    try:
        file = OwnFile(path, path.read_bytes())
    except FileNotFoundError:
        _forget()
        return
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}", kind="unreadable", file=FILE) from None
    if file != _loaded.file:
        _execute(file)


def current() -> str:
    """Changes whenever what is loaded does; empty where there is no file."""
    return "" if _loaded.file is None else _loaded.file.sha256


def used(components: Mapping[str, Component]) -> Extensions:
    """Where these components come from that aren't the lab's."""
    modules = {type(component).__module__ for component in components.values()}
    tops = set(map(_top, modules))
    points = {point.name: point for point in (_loaded.packages or {}).values() if _top(point.module) in tops}
    packages = {name: _version(point) for name, point in points.items()}
    if MODULE in modules and _loaded.file is not None:
        return Extensions(str(_loaded.file.path), _loaded.file.sha256, packages)
    return Extensions(packages=packages)


def files(components: Mapping[str, Component]) -> dict[str, bytes]:
    """What a run's folder keeps so that the run is frozen: name → content."""
    return {FILE: _loaded.file.content} if _loaded.file is not None and used(components).sha256 is not None else {}


@contextlib.contextmanager
def of_run(folder: Path, record: RunRecord) -> Iterator[None]:
    """For the length of the context, the components that a run was made with: its own copy of the file, its packages.

    Args:
        folder: the run's.
        record: its run.json.
    Raises:
        RequestError: the copy is missing or another one, or a package is missing or brings another version of a
            component.
    """
    copy = folder / FILE
    own = None
    if record.extensions.sha256 is not None:
        try:
            own = OwnFile(copy, copy.read_bytes())
        except OSError as error:
            problem = f"the run's components cannot be read: {error.strerror}"
            raise RequestError(problem, kind="unreadable", file=copy) from None
    with of_record(own, record.extensions, record.components, str(copy)):
        yield


@contextlib.contextmanager
def of_record(own: OwnFile | None, recorded: Extensions, versions: Mapping[str, int], where: str) -> Iterator[None]:
    """For the length of the context, the components that a run or a plan was made with.

    Args:
        own: its copy of the user's file; None where it uses none.
        recorded: what `used` gave when it was made.
        versions: of its components.
        where: the copy, for messages.
    Raises:
        RequestError: the copy is another one than was recorded, or a package is missing or brings another version of a
            component.
    """
    if recorded.packages:
        _check_packages(recorded.packages, versions)
    if recorded.sha256 is None or own is None:
        yield
        return
    if own.sha256 != recorded.sha256:
        problem = "is not the file that the run was made with: its SHA-256 is another"
        raise RequestError(problem, kind="not_trusted", file=where)
    before = _loaded.held
    if own != _loaded.file:
        _execute(own)
    _loaded.held = True
    try:
        yield
    finally:
        _loaded.held = before


def refusal_of(error: BaseException) -> RequestError | None:
    """The refusal of an exception that passed through the user's own file, with the line there; None for others."""
    if _loaded.file is None:
        return None
    line = _line_in(error, _loaded.file.path)
    return None if line is None else _refusal(_loaded.file.path, line, error)


def _execute(file: OwnFile) -> None:
    _forget()
    module = types.ModuleType(MODULE, None)
    module.__file__ = str(file.path)
    sys.modules[MODULE] = module  # where dataclasses look up the names in annotations
    try:
        exec(compile(file.content, str(file.path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        _forget()
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(file.path) else None
        line = line or _line_in(error, file.path)
        raise _refusal(file.path, line, error) from None
    _loaded.file = file


def _forget() -> None:
    """Unregister what the file brought, so that another one, or an edited one, starts from nothing."""
    registry.forget(MODULE)
    sys.modules.pop(MODULE, None)
    _loaded.file = None


def _refusal(path: Path, line: int | None, error: BaseException) -> RequestError:
    frames = traceback.extract_tb(error.__traceback__)
    is_of_registry = bool(frames) and frames[-1].filename == registry.__file__
    text = error.msg if isinstance(error, SyntaxError) else one_line(error)
    problem = text if is_of_registry else _with_type(error, text)
    return RequestError(problem, kind="unreadable", file=FILE if path == Path.cwd() / FILE else path, line=line)


def _with_type(error: BaseException, text: str) -> str:
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _line_in(error: BaseException, path: Path) -> int | None:
    """The innermost line of a file that an exception passed through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None


def entry_points() -> list[metadata.EntryPoint]:
    """The packages' entry points, none of them loaded."""
    return sorted(metadata.entry_points(group=GROUP), key=lambda point: (point.name, point.value))


def _load_packages() -> None:
    if _loaded.packages is not None:
        return
    packages = {}
    for point in entry_points():
        try:
            point.load()
        except (Exception, SystemExit) as error:
            part = f"entry point '{point.name}' = {point.value} (group {GROUP})"
            raise RequestError(_with_type(error, one_line(error)), kind="unreadable", part=part) from None
        packages[point.name] = point
    _loaded.packages = packages


def _check_packages(recorded: Mapping[str, str], versions: Mapping[str, int]) -> None:
    _load_packages()
    assert _loaded.packages is not None
    for name, package in recorded.items():
        if name not in _loaded.packages:
            problem = f"the run needs the components of '{name}' ({package}), which is not installed here"
            raise RequestError(problem, kind="unavailable", given=name)
    tops = {_top(_loaded.packages[name].module) for name in recorded}
    for key, version in versions.items():
        kind, _, name = key.partition("/")
        cls = registry.lookup(kind, name) if name in registry.names(kind) else Component
        if _top(cls.__module__) in tops and cls.version != version:
            problem = f"the run was made with version {version} of {kind} '{name}'; here it is {cls.version}"
            raise RequestError(problem, kind="not_trusted", given=version, expected=str(cls.version))


def _top(module: str) -> str:
    return module.partition(".")[0]


def _version(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value

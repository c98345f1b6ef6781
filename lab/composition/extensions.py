"""The user's own components: `lab_components.py` in the working folder, and installed packages.

They behave like built-in components: they compose, are listed and completed, and are part of a run's identity. A
package names its modules in entry points of the group `architecture_lab.components`. A run that uses the file keeps a
copy of it, and a worker loads that copy, wherever it runs and whatever has been edited since.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from components import registry
from components.registry import Component
from lab.code_version import digest_of
from lab.records import Extensions, RunRecord
from lab.refusals import RequestError, one_line

FILE = "lab_components.py"
MODULE = "lab_components"
GROUP = "architecture_lab.components"


@dataclass(frozen=True)
class OwnFile:
    """The content of a file of components when it was read."""

    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class _Loaded:
    """What this process has loaded.

    Attributes:
        file: the file of components; None if there is none.
        packages: name → entry point of the loaded packages; None before they are loaded.
        is_pinned: whether the file is a run's own copy, which the working folder's file must not replace.
    """

    file: OwnFile | None = None
    packages: dict[str, metadata.EntryPoint] | None = None
    is_pinned: bool = False


_loaded = _Loaded()


def load() -> None:
    """Register the components of installed packages and of the working folder's file. Repeated calls are cheap.

    Raises:
        RequestError: they fail to load, or register a name that exists already; with the file and line.
    """
    if _loaded.is_pinned:
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


def loaded_digest() -> str:
    """The SHA-256 of the loaded file of components; empty if there is none."""
    return "" if _loaded.file is None else _loaded.file.sha256


def origins(components: Mapping[str, Component]) -> Extensions:
    """The origins of those components that don't belong to the lab."""
    modules = {type(component).__module__ for component in components.values()}
    tops = set(map(_top, modules))
    points = {point.name: point for point in (_loaded.packages or {}).values() if _top(point.module) in tops}
    packages = {name: _version(point) for name, point in points.items()}
    digests = {name: _package_digest(_top(point.module)) for name, point in points.items()}
    if MODULE in modules and _loaded.file is not None:
        return Extensions(str(_loaded.file.path), _loaded.file.sha256, packages, digests)
    return Extensions(packages=packages, digests=digests)


def is_own(component: Component) -> bool:
    """Whether a component doesn't belong to the lab: it comes from the user's file or an installed package."""
    return _top(type(component).__module__) not in ("components", "lab")


def source(component: Component) -> tuple[str | None, int | None]:
    """The file and line of a component's class; None for what is unknown."""
    try:
        path = Path(inspect.getsourcefile(type(component)) or "")
        line = inspect.getsourcelines(type(component))[1]
    except (OSError, TypeError):
        return None, None
    return (FILE if path == Path.cwd() / FILE else str(path)), line


def digest(components: Mapping[str, Component]) -> str:
    """SHA-256 of the code of those components that don't belong to the lab: their file, and whole packages."""
    modules = {type(component).__module__ for component in components.values() if is_own(component)}
    own = loaded_digest() if MODULE in modules else ""
    tops = {top: _package_digest(top) for top in sorted(set(map(_top, modules - {MODULE})))}
    return hashlib.sha256(f"{own} {sorted(modules)} {tops}".encode()).hexdigest()


def files(components: Mapping[str, Component]) -> dict[str, bytes]:
    """Name → content of the files that a run folder keeps, so that the run doesn't depend on the working folder."""
    return {FILE: _loaded.file.content} if _loaded.file is not None and origins(components).sha256 is not None else {}


@contextlib.contextmanager
def of_run(folder: Path, record: RunRecord) -> Iterator[None]:
    """A context with the components of a run: its own copy of the file, and its packages.

    Args:
        folder: the run folder.
        record: its run.json.
    Raises:
        RequestError: the copy is missing or was changed, or a package is missing or has another version of a component.
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
    """A context with the components of a run or a plan.

    Args:
        own: its copy of the user's file; None if it uses none.
        recorded: the origins that were recorded when it was made.
        versions: `kind/name` → version of its components.
        where: the place of the copy, for messages.
    Raises:
        RequestError: the copy was changed, or a package is missing or has another version of a component.
    """
    if recorded.packages:
        _check_packages(recorded.packages, versions)
    if recorded.sha256 is None or own is None:
        yield
        return
    if own.sha256 != recorded.sha256:
        problem = "isn't the file with which the run was made: its SHA-256 differs"
        raise RequestError(problem, kind="not_trusted", file=where)
    was_pinned = _loaded.is_pinned
    if own != _loaded.file:
        _execute(own)
    _loaded.is_pinned = True
    try:
        yield
    finally:
        _loaded.is_pinned = was_pinned


def refusal_of(error: BaseException) -> RequestError | None:
    """A refusal, with the line, for an exception that passed through the user's own file; None for other exceptions.

    The exception may also be one that was raised from such an exception.
    """
    if _loaded.file is None:
        return None
    origin: BaseException | None = error
    while origin is not None:
        if (line := _line_in(origin, _loaded.file.path)) is not None:
            return _refusal(_loaded.file.path, line, error)
        origin = origin.__cause__
    return None


def _execute(file: OwnFile) -> None:
    _forget()
    module = types.ModuleType(MODULE, None)
    module.__file__ = str(file.path)
    sys.modules[MODULE] = module  # dataclasses look up the names in annotations there
    try:
        exec(compile(file.content, str(file.path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        _forget()
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(file.path) else None
        line = line or _line_in(error, file.path)
        raise _refusal(file.path, line, error) from None
    _loaded.file = file


def _forget() -> None:
    """Unregister the components of the file, before another or an edited file is loaded."""
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
    """The innermost line of a file through which an exception passed; None if it didn't pass through the file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None


def entry_points() -> list[metadata.EntryPoint]:
    """The entry points of installed packages. Nothing is loaded."""
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


@functools.cache
def _package_digest(top: str) -> str:
    """SHA-256 of the code of a top-level package or module, when first asked."""
    file = getattr(sys.modules.get(top), "__file__", None)
    path = None if file is None else Path(file).parent if Path(file).name == "__init__.py" else Path(file)
    return digest_of({} if path is None else {top: path})


def _version(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value

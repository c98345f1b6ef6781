"""A native library, as kernels use it: loaded from the cache, built first if need be, or unavailable with a reason.

A library that is in the cache loads in milliseconds, without a call of the compiler. Three environment variables count:
`LAB_NO_NATIVE` switches native libraries off, whatever its value; `LAB_NATIVE_CACHE` names the folder that keeps them;
`CXX` names the compiler.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from components.native import compiler as cxx
from components.native import cpu
from components.native.build import build
from components.native.entry import FORMAT, BuiltLibrary, read_entry
from components.native.failure import forget_failure
from components.native.folder import distrust, make_folder, native_folders
from components.native.unavailable import NativeCause, NativeUnavailable

OFF_VARIABLE = "LAB_NO_NATIVE"

_SHARED = Path(__file__).parent / "cpp"
_HEADERS = (".h", ".hh", ".hpp", ".hxx", ".inc")
_RUNTIMES = ("libgomp", "libomp", "libiomp5")


@dataclass(frozen=True)
class LoadedLibrary:
    """A library in this process.

    Attributes:
        functions: its exported functions.
        built: its file and the record of its build.
    """

    functions: ctypes.CDLL
    built: BuiltLibrary


_LIBRARIES: dict[str, NativeLibrary] = {}
_OUTCOMES: dict[str, LoadedLibrary | NativeUnavailable] = {}
_LISTENERS: list[Callable[[str], None]] = []
_LOCK = threading.RLock()


@dataclass(frozen=True)
class NativeLibrary:
    """C++ sources that are built into one library on this machine. Define one at the top of a module.

    Attributes:
        name: the library's name, unique in the project.
        sources: the files to compile. They may include `native.h`, and headers (.h, .hpp, .inc) in their own folders.
            Each function that Python calls is marked `NATIVE_EXPORT`.
    """

    name: str
    sources: tuple[Path, ...]

    def __post_init__(self) -> None:
        _LIBRARIES[self.name] = self

    def load(self) -> ctypes.CDLL:
        """The library, built first if the cache doesn't have it. The outcome is remembered for the process.

        Raises:
            NativeUnavailable: it can't be used here.
        """
        return self.loaded().functions

    def unavailable(self) -> str | None:
        """Why the library can't be used here; None if it can. Builds it if need be."""
        try:
            self.loaded()
        except NativeUnavailable as reason:
            return reason.detail
        return None

    def foreseen(self) -> str | None:
        """Why the library can't be used here, as far as that is known without a build; None if nothing is known."""
        outcome = _OUTCOMES.get(self.name)
        if isinstance(outcome, LoadedLibrary):
            return None
        try:
            if outcome is not None:
                raise outcome
            _compiler()
        except NativeUnavailable as reason:
            return reason.detail
        return None

    def loaded(self, *, retry: bool = False) -> LoadedLibrary:
        """The library with the record of its build.

        Args:
            retry: whether to try again what failed a short while ago, in this process or in another.
        Raises:
            NativeUnavailable: as `load`.
        """
        outcome = _OUTCOMES.get(self.name)
        if outcome is None or (retry and isinstance(outcome, NativeUnavailable)):
            with _LOCK:
                outcome = _OUTCOMES.get(self.name)
                if outcome is None or (retry and isinstance(outcome, NativeUnavailable)):
                    outcome = _OUTCOMES[self.name] = _outcome(self, retry)
        if isinstance(outcome, NativeUnavailable):
            raise outcome
        return outcome


def libraries() -> list[NativeLibrary]:
    """All native libraries of the modules that have been imported."""
    return [_LIBRARIES[name] for name in sorted(_LIBRARIES)]


def outcomes() -> dict[str, LoadedLibrary | NativeUnavailable]:
    """The libraries that this process has asked for, by their names."""
    return dict(sorted(_OUTCOMES.items()))


def build_key(library: NativeLibrary, compiler: cxx.CxxCompiler) -> str:
    """A digest of what a build depends on: sources and their headers, the compiler, its flags, this processor."""
    digest = hashlib.sha256()
    parts = [str(FORMAT), platform.machine(), compiler.identity, *cxx.FLAGS, *cxx.GCC_FLAGS]
    parts += [f"{name} {value}" for name, value in cpu.features().items()]
    for part in parts:
        digest.update(part.encode() + b"\0")
    for path in _files(library):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def forget() -> None:
    """Forget what this process knows of native libraries, so that each is looked for again."""
    with _LOCK:
        _OUTCOMES.clear()


def announce(line: str) -> None:
    """Tell a person at a terminal, and whoever else listens, what takes time."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
    for listener in tuple(_LISTENERS):
        listener(line)


@contextmanager
def announcing(listener: Callable[[str], None]) -> Iterator[None]:
    """Within the context, also call `listener` with a line when a build, or the wait for one, begins."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


def _outcome(library: NativeLibrary, retry: bool) -> LoadedLibrary | NativeUnavailable:
    try:
        compiler = _compiler()
        return _from_folders(library, compiler, build_key(library, compiler), retry)
    except NativeUnavailable as reason:
        return reason


def _compiler() -> cxx.CxxCompiler:
    """The compiler, where native libraries are wanted and can be built."""
    if os.environ.get(OFF_VARIABLE):
        raise NativeUnavailable(
            NativeCause.SWITCHED_OFF, f"{OFF_VARIABLE} is set", f"unset {OFF_VARIABLE} to use native kernels"
        )
    if not sys.platform.startswith("linux"):
        raise NativeUnavailable(NativeCause.PLATFORM, f"native kernels are built on Linux only, not {sys.platform}")
    return cxx.find_compiler()


def _from_folders(library: NativeLibrary, compiler: cxx.CxxCompiler, key: str, retry: bool) -> LoadedLibrary:
    """The library from the first folder that has it or can take it."""
    obstacles = []
    for folder in native_folders():
        try:
            obstacle = _prepare(folder)
            if obstacle is None:
                built = read_entry(folder, library.name, key)
                if built is None:
                    if not os.access(folder, os.W_OK):
                        raise OSError(errno.EROFS, "can't be written")
                    if retry:
                        forget_failure(folder, library.name, key)
                    sources = (*library.sources, _SHARED / "self_test.cpp")
                    built = build(folder, library.name, key, sources, compiler, _runtimes(), announce)
                return LoadedLibrary(_open(built), built)
        except OSError as error:
            obstacle = error.strerror or str(error)
        obstacles.append(f"{folder} {obstacle}")
    raise NativeUnavailable(
        NativeCause.NO_FOLDER,
        "no folder for native libraries: " + "; ".join(obstacles),
        "LAB_NATIVE_CACHE names a folder that you alone can write",
    )


def _prepare(folder: Path) -> str | None:
    """Make a folder if there is none. Returns why it can't hold libraries, or None."""
    try:
        folder.lstat()
    except FileNotFoundError:
        make_folder(folder)
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return "is on a file system that runs no programs (noexec)"
    return distrust(folder)


def _open(built: BuiltLibrary) -> ctypes.CDLL:
    """Load a library whose file has been checked, and have it say that it is that build.

    Raises:
        OSError: the folder's file system allows no programs, or symbols are missing.
    """
    functions = ctypes.CDLL(str(built.path))
    functions.native_build_key.restype = ctypes.c_char_p
    if functions.native_build_key() != built.record.key.encode():
        raise NativeUnavailable(NativeCause.NOT_LOADABLE, f"{built.path} is another build than its record says")
    return functions


def _runtimes() -> list[str]:
    """Paths of the OpenMP runtimes that this process has loaded, torch's own among them."""
    assert torch.get_num_threads()  # torch is loaded, and its runtime with it
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        paths = {line.split(maxsplit=5)[-1].strip() for line in maps if line.count("/")}
    return sorted(path for path in paths if Path(path).name.split(".")[0].split("-")[0] in _RUNTIMES)


def _files(library: NativeLibrary) -> list[Path]:
    """Sources, and every header that they could include: those of their folders and those that all libraries share."""
    folders = {source.parent for source in library.sources} | {_SHARED}
    headers = {path for folder in folders for path in folder.iterdir() if path.suffix in _HEADERS}
    return sorted({*library.sources, *headers, _SHARED / "self_test.cpp"})

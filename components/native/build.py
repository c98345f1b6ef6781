"""Builds a library: compiles its sources, tries the result in a process of its own, and puts it into the cache.

One process builds and others wait for it. On file systems without locks several may build the same library; each has
its own temporary folder, and one of the results stays.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from components.native import compiler as cxx
from components.native.entry import BuiltLibrary, publish, read_entry, remove_old, write_record
from components.native.failure import remember_failure, remembered_failure
from components.native.unavailable import NativeCause, NativeUnavailable

WAIT_SECONDS = 600.0
"""Whoever has waited this long for another process builds for itself."""

_TRIAL_SECONDS = 60.0
_TRIAL = """
import ctypes, sys
for runtime in sys.argv[3:]:
    ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
library = ctypes.CDLL(sys.argv[1])
library.native_build_key.restype = ctypes.c_char_p
sys.exit("it is another build" if library.native_build_key() != sys.argv[2].encode() else library.native_self_test(2))
"""


def build(
    folder: Path,
    name: str,
    key: str,
    sources: Sequence[Path],
    compiler: cxx.CxxCompiler,
    runtimes: Sequence[str],
    announce: Callable[[str], None],
) -> BuiltLibrary:
    """Build a library, or wait for the process that does.

    Args:
        folder: the cache's folder.
        name: the library's name.
        key: what identifies the build.
        sources: the files to compile.
        runtimes: paths of the OpenMP runtimes that the process has loaded.
        announce: called once with a line that says what takes time.
    Raises:
        NativeUnavailable: it can't be built, or couldn't a short while ago.
        OSError: the folder can't be written.
    """
    with _locked(folder / f".{name}-{key[:20]}.lock", announce):
        built = read_entry(folder, name, key)  # by the process that this one has waited for
        if built is not None:
            return built
        failure = remembered_failure(folder, name, key)
        if failure is not None:
            raise failure
        announce(f"building native kernels ({name}), once for this machine, some seconds")
        remove_old(folder)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
        started = time.monotonic()
        try:
            _compile(building, name, key, sources, compiler, runtimes)
            publish(building, folder, name, key)
        except NativeUnavailable as reason:
            remember_failure(folder, name, key, reason, time.monotonic() - started)
            raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    built = read_entry(folder, name, key)
    if built is None:
        raise OSError(errno.EIO, f"{folder} doesn't keep what is written to it")
    return built


def _compile(
    building: Path, name: str, key: str, sources: Sequence[Path], compiler: cxx.CxxCompiler, runtimes: Sequence[str]
) -> None:
    started = time.monotonic()
    program = str(compiler.path)
    work = building / "work"
    work.mkdir()
    version = cxx.version(compiler, work)
    flags = [*cxx.flags(version), f'-DNATIVE_BUILD_KEY="{key}"', f"-I{Path(__file__).parent / 'cpp'}"]
    objects = [work / f"{number}-{source.stem}.o" for number, source in enumerate(sources)]
    commands = [
        [program, *flags, "-c", str(source), "-o", str(object_file)]
        for source, object_file in zip(sources, objects, strict=True)
    ]
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(lambda command: cxx.call(command, work), commands):
            pass
    library = building / f"{name}.so"
    # Without -fopenmp here, no OpenMP runtime is linked: see native.h.
    cxx.call([program, "-shared", "-o", str(library), *map(str, objects)], work)
    shutil.rmtree(work)
    _try(library, key, compiler, runtimes)
    write_record(building, library, key, program, version.split("\n")[0], time.monotonic() - started)


def _try(library: Path, key: str, compiler: cxx.CxxCompiler, runtimes: Sequence[str]) -> None:
    """Load a new library and run its self-test, in a process that may end by it."""
    if not library.is_file():
        raise NativeUnavailable(NativeCause.COMPILER_FAILED, f"{compiler.path} wrote no library, and reported no error")
    command = [sys.executable, "-I", "-S", "-c", _TRIAL, str(library), key, *runtimes]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TRIAL_SECONDS
        )
    except OSError:
        return  # Python is part of another program, and can't be started by itself
    except subprocess.TimeoutExpired:
        raise NativeUnavailable(NativeCause.NOT_LOADABLE, "the library that was built hangs in its self-test") from None
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        ending = f"signal {-done.returncode}" if done.returncode < 0 else words[-1] if words else "a wrong sum"
        raise NativeUnavailable(
            NativeCause.NOT_LOADABLE,
            f"the library that {compiler.path} built fails its self-test: {ending}",
            "CXX names another compiler",
        )


@contextmanager
def _locked(path: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock, where the file system has locks and nobody holds it longer than `WAIT_SECONDS`."""
    with open(path, "a") as file:
        os.utime(path)  # it is in use: `remove_old` leaves it
        until = time.monotonic() + WAIT_SECONDS
        is_announced = False
        while time.monotonic() < until:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not is_announced:
                    announce("waiting for another process that builds the same native kernels")
                    is_announced = True
                time.sleep(0.05)
            except OSError:
                break  # no locks here
        yield

"""The C++ compiler: which one, what identifies it, and how it is called."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.native.unavailable import NativeCause, NativeUnavailable

FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fPIC", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)
GCC_FLAGS = ("-fopenmp",)
"""For GCC only: its OpenMP is that of torch's libgomp. Clang's would bring a second pool of threads."""

LIMIT_SECONDS = 300.0
"""A compiler that takes longer is stopped: it takes seconds, or a minute on a busy machine."""

_SHOWN_LINES = 12


@dataclass(frozen=True)
class CxxCompiler:
    """A C++ compiler on this machine.

    Attributes:
        path: the program, as it was found: a driver such as clang++ behaves by the name that it is called by.
        target: the file that this leads to, with symbolic links resolved.
        size: the file's size in bytes.
        modified: the time of the file's last change in nanoseconds.
    """

    path: Path
    target: Path
    size: int
    modified: int

    @property
    def identity(self) -> str:
        """Changes when another compiler, or another version of it, is installed. Read without starting it."""
        return f"{self.path} {self.target} {self.size} {self.modified}"


def find_compiler() -> CxxCompiler:
    """The compiler that torch.compile would use: the program `$CXX`, or g++.

    The rule is that of `torch._inductor.config.cpp.cxx` and `torch._inductor.cpp_builder.cpp_compiler_search`, which
    take seconds to import. Like there, `$CXX` is one program, without arguments.

    Raises:
        NativeUnavailable: there is no such program.
    """
    name = os.environ.get("CXX", "g++")
    program = shutil.which(name)
    if program is None:
        origin = "which CXX names" if "CXX" in os.environ else "and CXX names none"
        raise NativeUnavailable(
            NativeCause.NO_COMPILER,
            f"there is no C++ compiler {name!r}, {origin}",
            "install g++ (Debian, Ubuntu: apt install g++), or set CXX to the path of a C++ compiler",
        )
    path = Path(program).absolute()
    try:
        target = path.resolve(strict=True)
        status = target.stat()
    except OSError as error:
        raise NativeUnavailable(NativeCause.NO_COMPILER, f"the C++ compiler can't be read: {error}") from error
    return CxxCompiler(path, target, status.st_size, status.st_mtime_ns)


def version(compiler: CxxCompiler, folder: Path) -> str:
    """What `--version` prints; its first line names the version.

    Raises:
        NativeUnavailable: the compiler fails.
    """
    return call([str(compiler.path), "--version"], folder).strip()


def flags(version_text: str) -> tuple[str, ...]:
    """The flags for a compiler, from what it says of its version."""
    return (*FLAGS, *GCC_FLAGS) if "Free Software Foundation" in version_text else FLAGS


def call(command: Sequence[str], folder: Path, limit: float | None = None) -> str:
    """Run a compiler to its end in a folder, which also takes its temporary files.

    Args:
        limit: the most seconds; `LIMIT_SECONDS` by default.
    Returns:
        What it printed, on both streams.
    Raises:
        NativeUnavailable: it fails, or exceeds the limit. Its process group is killed then.
    """
    limit = LIMIT_SECONDS if limit is None else limit
    environment: Mapping[str, str] = os.environ | {"LC_ALL": "C", "TMPDIR": str(folder)}
    started = time.monotonic()
    with open(folder / f"output-{os.urandom(4).hex()}", "w+b") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,  # so that the compiler's own child processes end with it
            )
        except OSError as error:
            raise NativeUnavailable(NativeCause.COMPILER_FAILED, f"{command[0]} can't be started: {error}") from error
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise NativeUnavailable(
                NativeCause.COMPILER_TOO_SLOW,
                f"{command[0]} was stopped after {time.monotonic() - started:.0f} s",
                "try it by hand; CXX names another compiler",
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    if code != 0:
        ending = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        shown = "\n".join(text.strip().splitlines()[:_SHOWN_LINES])
        raise NativeUnavailable(
            NativeCause.COMPILER_FAILED,
            f"{command[0]} {ending}" + (f": {shown}" if shown else ""),
            "try it by hand; CXX names another compiler",
        )
    return text

"""Classifies failures. Each kind has its own retry policy."""

from __future__ import annotations

import contextlib
import errno
import traceback
from collections.abc import Iterator
from pathlib import Path

from components.registry import OptionError
from lab.records import Failure
from lab.refusals import RequestError

# torch raises plain RuntimeErrors from its CPU allocator and when it writes checkpoints.
_OUT_OF_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "std::bad_alloc",
    "cublas_status_alloc_failed",
)
_DISK_FULL = ("no space left on device", "disk quota exceeded", "file write failed")


class PeerFailure(RuntimeError):
    """A failure in another process of the run, which reported it or disappeared (kind `interrupted`).

    Attributes:
        kind: the kind of failure.
    """

    def __init__(self, kind: Failure, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def classify(error: BaseException) -> Failure:
    """The kind of failure of an exception, judged by its causes and contexts too.

    It is out_of_memory, disk_full, refused (a request that can't be met, such as a text that has changed) or bug.
    """
    if isinstance(error, PeerFailure):
        return error.kind
    for link in chain(error):
        # Compared by name, so that torch need not be imported.
        if isinstance(link, MemoryError) or type(link).__name__ == "OutOfMemoryError":
            return "out_of_memory"
        if isinstance(link, OSError) and link.errno == errno.ENOMEM:
            return "out_of_memory"
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk_full"
        if isinstance(link, RuntimeError | OSError):
            message = str(link).lower()
            if any(words in message for words in _OUT_OF_MEMORY):
                return "out_of_memory"
            if any(words in message for words in _DISK_FULL):
                return "disk_full"
    return "refused" if isinstance(error, RequestError | OptionError) else "bug"


def reason(error: BaseException, longest: int = 300) -> str:
    """The exception in one line of at most `longest` characters; a refusal's message alone."""
    is_message = isinstance(error, PeerFailure | RequestError | OptionError)
    text = str(error) if is_message else "".join(traceback.format_exception_only(error))
    lines = text.strip().splitlines()
    head = lines[0] if lines else type(error).__name__
    return head if len(head) <= longest else head[: longest - 1] + "…"


def memory_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The number of processes that the kernel has killed because memory ran out.

    It counts in this process's control group, or else on the whole machine. A killed process can't report its end, so
    its parent compares the counts before and after. None if the kernel gives no count.
    """
    with contextlib.suppress(OSError, ValueError):
        groups = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
        for _, controllers, path in groups:
            folder = cgroups / controllers / path.lstrip("/") if controllers else cgroups / path.lstrip("/")
            for name in ("memory.events", "memory.oom_control"):  # of control groups version 2, and of version 1
                if controllers in ("", "memory") and (count := _oom_kills(folder / name)) is not None:
                    return count
    return _oom_kills(proc / "vmstat")


def _oom_kills(path: Path) -> int | None:
    """The value of `oom_kill` in a file of names and values."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(dict(line.split(maxsplit=1) for line in path.read_text().splitlines())["oom_kill"])
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, its cause, the cause of that, and so on."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

"""What kind of failure an exception was: each kind has its own policy, so they are told apart where they happen."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator

from lab.runs.state import Failure

# torch raises plain RuntimeErrors from its CPU allocator and from the writer of its checkpoints.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")
_DISK_FULL = ("no space left on device", "disk quota exceeded", "file write failed")


def classify(error: BaseException) -> Failure:
    """out_of_memory, disk_full, or bug; an exception that another one caused, or was raised during, counts with it."""
    for each in _chain(error):
        # By name, as the class can only have been raised where torch is loaded, and here it needn't be.
        if isinstance(each, MemoryError) or type(each).__name__ == "OutOfMemoryError":
            return "out_of_memory"
        if isinstance(each, OSError) and each.errno == errno.ENOMEM:
            return "out_of_memory"
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk_full"
        if isinstance(each, RuntimeError | OSError):
            message = str(each).lower()
            if any(words in message for words in _OUT_OF_MEMORY):
                return "out_of_memory"
            if any(words in message for words in _DISK_FULL):
                return "disk_full"
    return "bug"


def reason(error: BaseException, longest: int = 300) -> str:
    """The exception in one line: the last line of its traceback that says something."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    head = lines[0] if lines else type(error).__name__
    return head if len(head) <= longest else head[: longest - 1] + "…"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

"""The cache of derived data: where it lies, how a file is put there whole, and how two processes take turns.

Everything in it can be deleted at any time and is made again.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.records import write_text

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}


def default_cache() -> Path:
    """$LAB_CACHE; else architecture-lab in $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("LAB_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "architecture-lab"


def write_whole(path: Path, text: str) -> None:
    """Write a file that other processes see whole or not at all, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock at `path`, waiting for the process that holds it; the kernel frees it when that process dies.

    Yields False on a file system without locks: what is made must still be put in place by a rename, so that the
    worst that can happen is work done twice.

    Args:
        waiting: called once if somebody else holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            held = False
        else:
            held = True
        yield held

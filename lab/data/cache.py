"""The cache of derived data: its location, atomic writes, and locks between processes.

Everything in the cache can be deleted at any time and is rebuilt when needed.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components.native.folder import cache_folder
from lab.records import write_text

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}


def default_cache() -> Path:
    """The folder `$LAB_CACHE`; without it `architecture-lab` in `$XDG_CACHE_HOME` or `~/.cache`."""
    return cache_folder()


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that other processes see all of it or none of it. Creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock at `path`, after waiting for another process that holds it. The kernel frees it if a process dies.

    Yields whether the lock is held: False on a file system without locks. Callers must therefore still put their
    results in place with a rename, so that at worst the work is done twice.

    Args:
        path: the lock file; created if missing.
        on_wait: called once if another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            is_locked = False
        else:
            is_locked = True
        yield is_locked

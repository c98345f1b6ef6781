"""The folders that may hold native libraries.

What they hold is loaded into the process, so that a folder must belong to the user alone.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDER_VARIABLE = "LAB_NATIVE_CACHE"


def cache_folder() -> Path:
    """The lab's cache: the folder `$LAB_CACHE`; without it `architecture-lab` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        RuntimeError: there is no home folder.
    """
    if folder := os.environ.get("LAB_CACHE"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "architecture-lab"


def native_folders() -> Iterator[Path]:
    """Where native libraries may be kept, best first.

    `$LAB_NATIVE_CACHE`, or `native` in the lab's cache; then the same with the user's number, for a cache that several
    users share; then a folder of the user among the temporary files, for machines on which the cache can't be written.
    """
    user = os.geteuid()
    try:
        named = os.environ.get(FOLDER_VARIABLE)
        first = Path(named).expanduser().absolute() if named else cache_folder().absolute() / "native"
        yield first
        yield first.with_name(f"{first.name}-{user}")
    except RuntimeError:  # there is no home folder
        pass
    yield Path(tempfile.gettempdir()) / f"architecture-lab-native-{user}"


def make_folder(folder: Path) -> None:
    """Make a folder for native libraries, if there is none.

    Raises:
        OSError: it can't be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def distrust(folder: Path) -> str | None:
    """Why others could have put a library into a folder; None where they couldn't.

    Raises:
        OSError: there is no such folder.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return "is not a folder"
    if status.st_uid != os.geteuid():
        return f"belongs to another user ({status.st_uid})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by other users (mode {stat.S_IMODE(status.st_mode):o}; chmod go-w)"
    return None

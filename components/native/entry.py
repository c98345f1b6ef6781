"""A built library in the cache: a folder with the library and a record of its build, put in place by one rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

FORMAT = 1
"""Raised with a change to how libraries are built or kept, so that none of before is taken for one of now."""

_RECORD = "build.json"
_UNUSED_SECONDS = 30 * 24 * 3600.0
_DAY = 24 * 3600.0


@dataclass(frozen=True)
class BuildRecord:
    """What is known of a build.

    Attributes:
        key: what it was built from; see `library.build_key`.
        sha256: of the library's file.
        compiler: the compiler's path.
        compiler_version: the first line of its `--version`.
        seconds: how long the build took.
    """

    key: str
    sha256: str
    compiler: str
    compiler_version: str
    seconds: float


@dataclass(frozen=True)
class BuiltLibrary:
    """A library in the cache, with its record."""

    path: Path
    record: BuildRecord


def entry_folder(folder: Path, name: str, key: str) -> Path:
    """Where a build is kept in a cache's folder."""
    return folder / f"{name}-{key[:20]}"


def read_entry(folder: Path, name: str, key: str) -> BuiltLibrary | None:
    """The library of that key; None if there is none, or it is damaged.

    A damaged file must not be loaded: it can end the process.
    """
    entry = entry_folder(folder, name, key)
    try:
        record = BuildRecord(**json.loads((entry / _RECORD).read_text(encoding="utf-8")))
        path = entry / f"{name}.so"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, TypeError):
        return None
    if record.key != key or record.sha256 != digest:
        return None
    _note_use(entry)
    return BuiltLibrary(path, record)


def write_record(building: Path, library: Path, key: str, compiler: str, version: str, seconds: float) -> None:
    """Complete a build with its record."""
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    record = BuildRecord(key, digest, compiler, version, round(seconds, 2))
    (building / _RECORD).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def publish(building: Path, folder: Path, name: str, key: str) -> None:
    """Put a complete build in its place. Where another process was first, its build stays.

    Raises:
        OSError: the folder can't be written.
    """
    entry = entry_folder(folder, name, key)
    if entry.exists() and read_entry(folder, name, key) is None:
        damaged = folder / f".damaged-{os.urandom(6).hex()}"
        entry.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        building.rename(entry)
    except OSError:
        if read_entry(folder, name, key) is None:
            raise


def remove_old(folder: Path) -> None:
    """Remove builds that nothing has used for a month, and what killed builds left a day ago."""
    now = time.time()
    for path in folder.iterdir():
        try:
            age = now - path.lstat().st_mtime
            if age > _UNUSED_SECONDS or (path.name.startswith(".") and age > _DAY):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:
            continue  # another process removed it, or it is another user's


def _note_use(entry: Path) -> None:
    try:
        if time.time() - entry.stat().st_mtime > _DAY:
            os.utime(entry)
    except OSError:
        return  # a cache that can't be written is one that nothing is removed from

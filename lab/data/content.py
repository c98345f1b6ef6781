"""Digests of files by content. A file is read again only if its size or times have changed since the last digest.

Times don't enter the digest: two copies with different times have one digest, and so share their token shards.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.data.cache import write_atomically
from lab.data.errors import DataError

# A file that changes twice within one tick of the file system's clock keeps its times. So the digest of a file that has
# just changed isn't cached.
_SETTLED_SECONDS = 2.0
_LARGE_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a corpus; `key` is its path relative to the root of the corpus."""

    key: str
    path: Path


def digest_of(value: object) -> str:
    """SHA-256 of a JSON-able value, hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(sources: Sequence[Source], options: object, cache: Path) -> str:
    """Digest of the keys and the content of the sources, in order, and of the options that decide how they are read.

    Args:
        options: a JSON-able value.
        cache: folder in which the digest is kept together with the sizes and times of the files.

    Raises:
        DataError: a source can't be read.
    """
    try:
        stats = [source.path.stat() for source in sources]
        file_states = [
            [source.key, str(source.path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            for source, stat in zip(sources, stats, strict=True)
        ]
        cached = cache / "content" / digest_of([file_states, options])
        if digest := _read(cached):
            return digest
        is_settled = time.time() - max((stat.st_mtime for stat in stats), default=0.0) > _SETTLED_SECONDS
        files = zip(sources, stats, strict=True)
        digest = digest_of([[[source.key, _file_digest(source.path, stat, cache)] for source, stat in files], options])
    except OSError as error:
        raise DataError(f"{error.filename}: can't be read ({error.strerror})") from error
    if is_settled:
        with suppress(OSError):  # a read-only cache is still useful
            write_atomically(cached, digest)
    return digest


def _file_digest(path: Path, stat: os.stat_result, cache: Path) -> str:
    """The digest of a file. A large file's is kept, so that a change to one file costs reading that file alone."""
    if stat.st_size < _LARGE_BYTES:
        return file_digest(path)
    state = [str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    cached = cache / "content" / "files" / digest_of(state)
    if digest := _read(cached):
        return digest
    digest = file_digest(path)
    if time.time() - stat.st_mtime > _SETTLED_SECONDS:
        with suppress(OSError):
            write_atomically(cached, digest)
    return digest


def _read(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    return text if len(text) == 64 else None

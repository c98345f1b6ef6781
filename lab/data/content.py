"""Digests of files by content, cheap to repeat: unchanged sizes and times answer for content that was read before.

Times only ever save the reading. Two copies with other times have one digest, and so one set of token shards.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.data.cache import write_whole
from lab.data.errors import DataError

# A file changed twice within one tick of its file system's clock keeps its times, so young files aren't remembered.
_SETTLED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Source:
    """A file that a corpus is read from: `key` is its path relative to the corpus's root."""

    key: str
    path: Path


def digest_of(value: object) -> str:
    """SHA-256 of a JSON-able value, hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(sources: Sequence[Source], reading: object, cache: Path) -> str:
    """Digest of the sources' keys and content, in order, and of `reading`, the options that say how they are read.

    Raises:
        DataError: a source can't be read.
    """
    try:
        stats = [source.path.stat() for source in sources]
        looks = [
            [source.key, str(source.path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            for source, stat in zip(sources, stats, strict=True)
        ]
        remembered = cache / "content" / digest_of([looks, reading])
        if known := _read(remembered):
            return known
        settled = time.time() - max((stat.st_mtime for stat in stats), default=0.0) > _SETTLED_SECONDS
        digest = digest_of([[[source.key, file_digest(source.path)] for source in sources], reading])
    except OSError as error:
        raise DataError(f"{error.filename}: can't be read ({error.strerror})") from error
    if settled:
        with suppress(OSError):  # a cache that can only be read still serves
            write_whole(remembered, digest)
    return digest


def _read(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    return text if len(text) == 64 else None

"""Compressed files: .gz and .zst, read as a stream of what they hold."""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any, BinaryIO, cast

from lab.data.errors import DataError
from lab.refusals import one_line

MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
"""Suffix → the bytes that such a file begins with."""


def compression_of(path: PurePath) -> str | None:
    """`.gz` or `.zst`, from the name; None for a file that isn't compressed."""
    suffix = path.suffix.lower()
    return suffix if suffix in MAGIC else None


def inner_suffix(path: PurePath) -> str:
    """The suffix that names the format: `.jsonl` of `a.jsonl.gz`; empty if there is none."""
    return (PurePath(path.stem) if compression_of(path) else path).suffix.lower()


@contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """The bytes that a file holds, decompressed.

    Raises:
        DataError: the file isn't compressed as its name says, or is damaged. OSError: it can't be read.
    """
    compression = compression_of(path)
    with open(path, "rb") as file:
        if compression is None:
            yield file
            return
        magic = MAGIC[compression]
        if (head := file.read(len(magic))) != magic:
            problem = f"is named {compression} and doesn't begin as such a file does (byte 0 on is {head.hex(' ')})"
            raise DataError(problem, kind="unreadable", file=path, fix="decompress it, or rename it")
        file.seek(0)
        try:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compression == ".gz" else _zstd(file)
        except (EOFError, zlib.error, gzip.BadGzipFile, _BrokenStream) as error:
            raise DataError(f"its {compression} data is damaged ({error})", kind="unreadable", file=path) from None


@contextmanager
def open_seekable(path: Path) -> Iterator[BinaryIO]:
    """As `open_decompressed`, for formats that need to seek: compressed files go through a temporary file on disk."""
    with open_decompressed(path) as file:
        if compression_of(path) is None:
            yield file
            return
        with tempfile.TemporaryFile(prefix="lab-") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.seek(0)
            yield cast(BinaryIO, copy)


class _BrokenStream(Exception):
    """The compressed data can't be decompressed."""


class _ZstdStream(io.RawIOBase):
    """Arrow's decompression as a Python file."""

    def __init__(self, file: IO[bytes]) -> None:
        import pyarrow as pa

        self._error = pa.ArrowException
        self._stream: Any = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content: bytes = self._stream.read(len(buffer))
        except (self._error, OSError) as error:
            raise _BrokenStream(one_line(error)) from None
        buffer[: len(content)] = content
        return len(content)


def _zstd(file: IO[bytes]) -> BinaryIO:
    return io.BufferedReader(_ZstdStream(file), 1 << 16)

"""Bytes as text: UTF-8, or UTF-16 where a byte order mark says so. What isn't text is refused with its file and byte.

A byte order mark is no part of the text. Line ends stay as they are.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lab.data.errors import DataError
from lab.data.formats.compression import open_decompressed

_CHUNK = 1 << 20  # bytes of a file in memory at a time
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_NOT_TEXT = {
    b"PAR1": "Parquet data",
    b"ARROW1": "Arrow data",
    b"\x1f\x8b": "gzip data",
    b"\x28\xb5\x2f\xfd": "Zstandard data",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ": "xz data",
    b"PK\x03\x04": "a zip archive",
    b"%PDF-": "a PDF",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3": "an SQLite database",
}
HEAD = 16
"""Bytes that tell what a file holds."""


def byte_order_mark(head: bytes) -> bytes:
    """The byte order mark of UTF-8 or UTF-16 that a file begins with; empty if there is none."""
    marks = (codecs.BOM_UTF8, *_UTF16)
    return next((mark for mark in marks if head.startswith(mark) and not head.startswith(_UTF32)), b"")


def begins_as(head: bytes) -> str | None:
    """What a file holds that isn't text, from its first bytes; None if it may be text."""
    if head.startswith(_UTF32):
        return "UTF-32 text"
    return next((what for magic, what in _NOT_TEXT.items() if head.startswith(magic)), None)


def not_text(path: Path, problem: str) -> DataError:
    """The refusal of a file that isn't text."""
    fix = "leave it out, or convert it to UTF-8"
    return DataError(f"isn't text that can be read: {problem}", kind="unreadable", file=path, fix=fix)


def text_chunks(path: Path) -> Iterator[str]:
    """A file's text, decompressed and decoded, in pieces of about a megabyte.

    Raises:
        DataError: the file isn't text; with the offset of the byte, from 0, in what the file holds.
    """
    with open_decompressed(path) as file:
        yield from _decoded(file, path)


def text_lines(path: Path) -> Iterator[str]:
    """A file's lines with their ends. A line ends at LF, so that CR LF and a lone CR stay in it.

    Raises:
        DataError: as `text_chunks`.
    """
    rest: list[str] = []
    for chunk in text_chunks(path):
        *lines, last = chunk.split("\n")
        for line in lines:
            yield "".join((*rest, line, "\n"))
            rest = []
        rest.append(last)
    if line := "".join(rest):
        yield line


def byte_lines(path: Path) -> Iterator[bytes]:
    """A file's lines as UTF-8, which isn't checked; those of a UTF-16 file are converted.

    Raises:
        DataError: the file's beginning, or what UTF-16 there is, isn't text.
    """
    with open_decompressed(path) as file:
        head = file.read(4096)
        mark = _check_head(head, path)
    if mark in _UTF16:
        yield from (line.encode("utf-8") for line in text_lines(path))
        return
    if (nul := head.find(b"\0")) >= 0:
        raise not_text(path, _nul(nul))
    with open_decompressed(path) as file:
        file.read(len(mark))
        yield from file


def _check_head(head: bytes, path: Path) -> bytes:
    if what := begins_as(head):
        raise not_text(path, f"it is {what} (byte 0 on is {head[:4].hex(' ')})")
    return byte_order_mark(head)


def _decoded(file: BinaryIO, path: Path) -> Iterator[str]:
    chunk = file.read(_CHUNK)
    while 0 < len(chunk) < HEAD and (more := file.read(HEAD)):
        chunk += more
    mark = _check_head(chunk[:HEAD], path)
    encoding = _UTF16.get(mark, "utf-8")
    decoder = codecs.getincrementaldecoder(encoding)()
    chunk, offset = chunk[len(mark) :], len(mark)  # of the first byte that isn't decoded yet
    while True:
        # A character may be cut: the decoder keeps its first bytes.
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            at, byte = offset + error.start, error.object[error.start]
            name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
            raise not_text(path, f"byte {at:,} (0x{byte:02x}) is not {name}, {error.reason}") from None
        if (nul := text.find("\0")) >= 0:
            raise not_text(path, _nul(offset + len(text[:nul].encode(encoding))))
        if text:
            yield text
        if not chunk:
            return
        offset += pending + len(chunk) - len(decoder.getstate()[0])
        chunk = file.read(_CHUNK)


def _nul(offset: int) -> str:
    return f"byte {offset:,} is 0 (binary data, or UTF-16 without a byte order mark)"

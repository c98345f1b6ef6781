"""Files of token ids: .bin of llm.c, with a header, or of nanoGPT and the lab's own shards, without; and .npy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lab.data.errors import DataError
from lab.data.formats.compression import compression_of, open_seekable
from lab.data.formats.encoding import begins_as
from lab.refusals import one_line

_HEADER_BYTES = 256 * 4
_LLMC = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
"""Magic number of llm.c's dev/data/data_common.py → its version and the dtype of the ids."""


@dataclass(frozen=True)
class IdLayout:
    """Where the ids of a file are.

    Attributes:
        offset: bytes before the first id.
        size: bytes of all ids.
        dtype: such as `<u2`; None for one that follows from the vocabulary.
    """

    offset: int
    size: int
    dtype: str | None


@contextmanager
def open_ids(path: Path, suffix: str) -> Iterator[tuple[np.ndarray[tuple[int], np.dtype[np.uint8]], str | None]]:
    """The bytes of a file's ids, memory-mapped: uint8 [n]; and their dtype.

    Args:
        suffix: `.npy` or `.bin`.
    Raises:
        DataError: the file isn't of that format.
    """
    with open_seekable(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        layout = _npy_layout(file, size, path) if suffix == ".npy" else _bin_layout(file, size, path)
        if layout.size == 0:
            yield np.zeros(0, np.uint8), layout.dtype
            return
        # A file by its path, so that a mapping outlives this call; a decompressed copy by its handle.
        source = path if compression_of(path) is None else file
        mapped = np.memmap(source, np.uint8, "r", offset=layout.offset, shape=(layout.size,))
        yield mapped.view(np.ndarray), layout.dtype


def _bin_layout(file: BinaryIO, size: int, path: Path) -> IdLayout:
    head = file.read(4096)
    magic, version, count = np.frombuffer(head[:12], "<i4") if len(head) >= _HEADER_BYTES else (0, 0, 0)
    if (known := _LLMC.get(int(magic))) is not None:
        expected_version, dtype = known
        if version != expected_version:
            problem = f"has llm.c's header in version {version}; version {expected_version} is known"
            raise DataError(problem, kind="unreadable", file=path)
        width = np.dtype(dtype).itemsize
        if count * width != size - _HEADER_BYTES:
            held = (size - _HEADER_BYTES) / width
            problem = (
                f"its header tells of {count:,} tokens, and the file holds {held:,.10g}: it is cut short or damaged"
            )
            raise DataError(problem, kind="unreadable", file=path)
        return IdLayout(_HEADER_BYTES, size - _HEADER_BYTES, dtype)
    what = begins_as(head) or ("text" if _is_text(head) else None)
    if what:
        fix = "leave it out" if what != "text" else "rename it to .txt if it is text of the corpus, or leave it out"
        raise DataError(f"is named .bin and holds {what}, not token ids", kind="unreadable", file=path, fix=fix)
    if size % 2:
        problem = f"holds {size:,} bytes, which are no whole number of uint16 token ids"
        raise DataError(problem, kind="unreadable", file=path)
    return IdLayout(0, size, None)


def _is_text(head: bytes) -> bool:
    """Whether bytes read as text. Ids below 256, of which every text has some, have a byte that is 0."""
    if not head:
        return False
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character.isspace() for character in text)


def _npy_layout(file: BinaryIO, size: int, path: Path) -> IdLayout:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, EOFError) as error:
        problem = f"is not a NumPy array ({one_line(error)})"
        raise DataError(problem, kind="unreadable", file=path) from None
    if len(shape) != 1 or dtype.kind not in "iu":
        problem = f"expected token ids as integers in one dimension, found {dtype} of shape {shape}"
        raise DataError(problem, kind="unreadable", file=path)
    held = size - file.tell()
    if held != shape[0] * dtype.itemsize:
        problem = (
            f"its header tells of {shape[0]:,} ids, and the file holds {held // dtype.itemsize:,}: it is cut short"
        )
        raise DataError(problem, kind="unreadable", file=path)
    return IdLayout(file.tell(), held, dtype.str)

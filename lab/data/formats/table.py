"""Which reader reads which file: by its name, and where that says nothing by its first bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from lab.data.content import Source
from lab.data.corpora.base import Document, Item, SkippedRow, TokenStream
from lab.data.errors import DataError
from lab.data.formats.compression import compression_of, inner_suffix, open_decompressed
from lab.data.formats.csv_rows import read_csv
from lab.data.formats.encoding import HEAD
from lab.data.formats.json_rows import read_json, read_json_lines
from lab.data.formats.parquet import read_parquet
from lab.data.formats.plain_text import read_text
from lab.data.formats.rows import NO_TEXT_FIX, BadRow, ReadingOptions, Rows
from lab.refusals import Where

Holds = Literal["text", "rows", "tokens"]


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: as `lab data` shows it.
        suffixes: of its files, before .gz or .zst; none for what has no suffix of its own.
        holds: text as it stands; rows with a field of text; or token ids.
        version: raised when the same file begins to be read as other documents.
        rows: reads the rows of a file, given the field.
    """

    name: str
    suffixes: tuple[str, ...]
    holds: Holds
    version: int = 1
    rows: Callable[[Path, str], Rows] | None = None


TEXT = Format("text", (), "text")
"""Every suffix that isn't in the table: .txt, .md, .py, none at all."""

_JSON_LINES = Format("JSON lines", (".jsonl", ".ndjson"), "rows", rows=read_json_lines)
_PARQUET = Format("Parquet", (".parquet", ".pq"), "rows", rows=read_parquet)
FORMATS = (
    _JSON_LINES,
    Format("JSON", (".json",), "rows", rows=read_json),
    Format("CSV", (".csv",), "rows", rows=lambda path, field: read_csv(path, field, ",")),
    Format("TSV", (".tsv",), "rows", rows=lambda path, field: read_csv(path, field, "\t")),
    _PARQUET,
    Format("token ids", (".bin", ".npy"), "tokens"),
)
_BY_SUFFIX = {suffix: each for each in FORMATS for suffix in each.suffixes}
_UNREAD = {
    ".arrow": "an Arrow file; corpus 'hub' reads folders of the datasets library, and .parquet is read here",
    ".xlsx": "a spreadsheet; save the sheet as .csv",
    ".npz": "several NumPy arrays; save the ids as one .npy",
    ".pt": "a PyTorch file; save the ids as .npy",
    ".pkl": "a pickle; save its rows as .jsonl",
}


def format_of(path: Path) -> Format:
    """The format of a file.

    Raises:
        DataError: the format is known, and not one that is read. OSError: the file can't be read.
    """
    suffix = inner_suffix(path)
    if known := _BY_SUFFIX.get(suffix):
        return known
    if what := _UNREAD.get(suffix):
        raise DataError(f"is {what}", kind="unsupported", file=path)
    return _PARQUET if suffix not in (".txt", ".md") and first_bytes(path).startswith(b"PAR1") else TEXT


def is_as_before(path: PurePath, file_format: Format) -> bool:
    """Whether a file was read as the same documents when text, JSON lines and Parquet were all that there was."""
    return compression_of(path) is None and (file_format is TEXT or inner_suffix(path) in (".jsonl", ".parquet"))


def first_bytes(path: Path) -> bytes:
    """The first bytes of what a file holds, decompressed."""
    with open_decompressed(path) as file:
        return file.read(HEAD)


def read(source: Source, file_format: Format, options: ReadingOptions) -> Iterator[Item]:
    """The documents of a file, in order.

    Raises:
        DataError: the file can't be read, or a row and `on_bad_row` is `refuse`. OSError: the file can't be read.
    """
    if file_format.rows is not None:
        yield from _read_rows(source, file_format, file_format.rows(source.path, options.field), options)
    elif file_format.holds == "tokens":
        from lab.data.formats.token_files import open_ids

        with open_ids(source.path, inner_suffix(source.path)) as (ids, dtype):
            yield TokenStream(source.key, source.path, ids, dtype)
    else:
        for number, text in read_text(source.path, options.split_at):
            yield Document(source.key if number is None else f"{source.key}#{number}", text)


def _read_rows(source: Source, file_format: Format, rows: Rows, options: ReadingOptions) -> Iterator[Item]:
    has_lines = file_format is _JSON_LINES
    for number, text in rows:
        if not isinstance(text, BadRow):
            yield Document(f"{source.key}#{number}", text)
            continue
        place = Where(str(source.path), number) if has_lines else Where(str(source.path), part=f"row {number}")
        if options.on_bad_row == "refuse":
            raise DataError(text.problem, kind="unreadable", where=place, fix=f"correct the row, {NO_TEXT_FIX}")
        yield SkippedRow(str(place), text.reason, text.problem)

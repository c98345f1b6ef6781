"""CSV and TSV with a header: quotes and line breaks within cells as RFC 4180 has them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from components.registry import suggestion
from lab.data.errors import DataError
from lab.data.formats.encoding import text_lines
from lab.data.formats.rows import BadRow, Rows

_LONGEST_CELL = 1 << 30  # characters; the library's own limit, 128 KB, is less than many documents have


def read_csv(path: Path, field: str, delimiter: str) -> Rows:
    """The cells of one column by the number of their row, from 1, the header not counted.

    Raises:
        DataError: the file has no such column, or several, or isn't text.
    """
    csv.field_size_limit(_LONGEST_CELL)
    rows = csv.reader(text_lines(path), delimiter=delimiter, strict=True)
    header = _next(rows)
    if not isinstance(header, list):
        raise DataError("has no header with the names of its columns", kind="unreadable", file=path)
    if field not in header:
        problem = f"has no column '{field}'{suggestion(field, header)}; set data.corpus.field"
        raise DataError(problem, kind="unreadable", file=path)
    if header.count(field) > 1:
        raise DataError(f"has {header.count(field)} columns called '{field}'", kind="unreadable", file=path)
    column, number = header.index(field), 0
    while (row := _next(rows)) is not None:
        if row == []:
            continue  # a blank line
        number += 1
        if isinstance(row, BadRow):
            yield number, row
        elif len(row) != len(header):
            problem = f"has {len(row)} cells (line {rows.line_num}), and the header has {len(header)}"
            yield number, BadRow("number of cells", problem)
        else:
            yield number, row[column]


def _next(rows: Iterator[list[str]]) -> list[str] | BadRow | None:
    try:
        return next(rows, None)
    except csv.Error as error:
        return BadRow("not CSV", f"is not CSV ({error})")

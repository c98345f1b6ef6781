"""Parquet: a column of text, or a field within a column of structures and lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.registry import suggestion
from lab.data.errors import DataError
from lab.data.formats.compression import open_seekable
from lab.data.formats.rows import Rows, field_steps, path_of, text_of_row
from lab.refusals import one_line

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 256  # in memory at a time


def read_parquet(path: Path, field: str) -> Rows:
    """Each row by its number, from 1.

    Raises:
        DataError: the file isn't Parquet, or its schema has no such text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_seekable(path) as content, pq.ParquetFile(content) as file:
            column = _column(file.schema_arrow, field, path)
            number = 0
            for batch in file.iter_batches(_ROWS, columns=[column]):
                # A name with a dot also selects what is within a structure.
                for value in batch.column(batch.schema.get_field_index(column)).to_pylist():
                    number += 1
                    yield number, text_of_row({column: value}, field)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        problem = f"is not a readable Parquet file ({one_line(error)})"
        raise DataError(problem, kind="unreadable", file=path) from error


def _column(schema: pa.Schema, field: str, path: Path) -> str:
    """The column that holds a field, which must be text by its type."""
    steps = [field] if field in schema.names else field_steps(field)
    column = steps[0]
    if column not in schema.names:
        paths = [path for name in schema.names for path in _text_paths(schema.field(name).type, (name,))]
        problem = f"has no column '{column}'{suggestion(field, paths or schema.names)}; set data.corpus.field"
        raise DataError(problem, kind="unreadable", file=path)
    kind: Any = schema.field(column).type
    for number, step in enumerate(steps[1:], 2):
        kind = _within(kind, step)
        if kind is None:
            here = path_of(steps[:number])
            problem = f"has no '{here}': column '{column}' holds {schema.field(column).type}; set data.corpus.field"
            raise DataError(problem, kind="unreadable", file=path)
    if not _is_text(kind):
        hint = f"; '{field}[]' joins the texts of a list" if _is_list(kind) else ""
        problem = f"column '{field}' should hold text, it holds {kind}{hint}"
        raise DataError(problem, kind="unreadable", file=path)
    return column


def _text_paths(kind: Any, steps: tuple[str, ...]) -> Iterator[str]:
    """The paths of the texts within a column of this type."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _text_paths(kind.field(index).type, (*steps, kind.field(index).name))
    elif _is_list(kind):
        yield from _text_paths(kind.value_type, (*steps, "[]"))
    elif _is_text(kind) and not pa.types.is_null(kind):
        yield path_of(steps)


def _within(kind: Any, step: str) -> Any:
    """The type one step further in; None if there is none."""
    import pyarrow as pa

    if step == "[]":
        return kind.value_type if _is_list(kind) else None
    if not pa.types.is_struct(kind) or kind.get_field_index(step) < 0:
        return None
    return kind.field(step).type


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: Any) -> bool:
    """Whether a type holds text; one of nulls only does, and each of its rows is a bad one."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    names = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null
    return any(is_kind(kind) for is_kind in names)

"""Rows of a file, of which one field is text: where that field stands, and what a row without such a text is.

`messages[].content` is a path: `content` of every item in the list `messages`, joined with line feeds. A field that is
itself called `meta.text` comes before the path of that spelling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from components.registry import suggestion

BadRowPolicy: TypeAlias = Literal["refuse", "skip"]

DEFAULT_FIELD = "text"
JOIN = "\n"
"""What stands between the texts of a list."""

NO_TEXT_FIX = "set data.corpus.field, or leave such rows out with data.corpus.on_bad_row=skip"
"""What to do about rows without text."""


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """How the files of a corpus are read.

    Attributes:
        field: of a row: its name, or its path.
        split_at: the text between two documents of a text file; None for one document a file.
        on_bad_row: refuse a row without text, or skip and count it.
    """

    field: str = DEFAULT_FIELD
    split_at: str | None = None
    on_bad_row: BadRowPolicy = "refuse"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that holds no text that can be read.

    Attributes:
        reason: in a few words, the same for every row with that fault.
        problem: what is wrong with this row.
    """

    reason: str
    problem: str


Rows: TypeAlias = Iterator[tuple[int, str | BadRow]]
"""(number in the file from 1, text) of each row."""


def field_steps(field: str) -> list[str]:
    """A path as steps: `messages[].content` as `messages`, `[]`, `content`."""
    steps: list[str] = []
    for part in field.split("."):
        name = part
        while name.endswith("[]"):
            name = name.removesuffix("[]")
        steps += [name, *["[]"] * ((len(part) - len(name)) // 2)]
    return steps


def path_of(steps: Sequence[str]) -> str:
    """Steps as a path."""
    return ".".join(steps).replace(".[]", "[]")


def text_paths(row: object) -> list[str]:
    """The paths of the texts in a row, as `field` takes them; of a list, those of its first item."""
    paths: list[str] = []

    def walk(value: object, steps: tuple[str, ...]) -> None:
        if isinstance(value, str):
            paths.append(path_of(steps))
        elif len(steps) < _DEEPEST:
            inner = value.items() if isinstance(value, Mapping) else ()
            for name, item in (("[]", item) for item in value[:1]) if isinstance(value, list) else inner:
                walk(item, (*steps, str(name)))

    walk(row, ())
    return paths[:_MOST_PATHS]


_DEEPEST = 8
_MOST_PATHS = 20


def text_of_row(row: object, field: str) -> str | BadRow:
    """The text that a row holds at a field."""
    if not isinstance(row, Mapping):
        return BadRow("not an object", f"expected an object with '{field}', found {type(row).__name__}")
    if field in row:
        return _checked(row[field], field)
    values: list[object] = [row]
    steps = field_steps(field)
    for number, step in enumerate(steps):
        path, outer = path_of(steps[: number + 1]), path_of(steps[:number])
        inner: list[object] = []
        for value in values:
            if step == "[]":
                if not isinstance(value, list):
                    return BadRow(f"'{outer}' is no list", f"'{outer}' should be a list, found {type(value).__name__}")
                inner += value
            elif not isinstance(value, Mapping):
                return BadRow(f"no field '{path}'", f"'{outer}' should hold '{step}', found {type(value).__name__}")
            elif step not in value:
                problem = f"has no field '{path}'{suggestion(path, text_paths(row) or value)}"
                return BadRow(f"no field '{path}'", problem)
            else:
                inner.append(value[step])
        values = inner
    texts = [_checked(value, field) for value in values]
    bad = next((text for text in texts if isinstance(text, BadRow)), None)
    return JOIN.join(text for text in texts if isinstance(text, str)) if bad is None else bad


def _checked(value: object, field: str) -> str | BadRow:
    if value is None:
        return BadRow(f"'{field}' is null", f"'{field}' is null, expected text")
    if not isinstance(value, str):
        hint = f"; '{field}[]' joins the texts of a list" if isinstance(value, list) else ""
        problem = f"'{field}' should be text, found {type(value).__name__}{hint}"
        return BadRow(f"'{field}' is not text", problem)
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            problem = f"character {error.start + 1} is half of a surrogate pair, not text"
            return BadRow("half of a surrogate pair", problem)
    return value

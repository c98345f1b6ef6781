"""JSON: an object a line (.jsonl, .ndjson, and .json as many data sets have it), or one array of objects (.json)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from lab.data.errors import DataError
from lab.data.formats.encoding import byte_lines, text_chunks
from lab.data.formats.rows import BadRow, Rows, text_of_row

# Files that were joined have a byte order mark between two lines.
_AROUND = "\ufeff \t\r\n"
_STRUCTURE = re.compile(r'["\\{}\[\],]')


def read_json_lines(path: Path, field: str) -> Rows:
    """Each line that isn't blank, by its number."""
    for number, line in enumerate(byte_lines(path), 1):
        if line.strip():
            yield number, _text(line, field)


def read_json(path: Path, field: str) -> Rows:
    """The elements of an array by their place from 1, or lines by their number: the first character tells.

    Raises:
        DataError: the file is neither.
    """
    match _first_character(path):
        case "[":
            yield from _array(path, field)
        case "{":
            _check_not_one_object(path)
            yield from read_json_lines(path, field)
        case character:
            found = f"it begins with {character!r}" if character else "it is empty"
            problem = f"expected an array of objects, or an object a line; {found}"
            raise DataError(problem, kind="unreadable", file=path)


def _text(content: bytes | str, field: str) -> str | BadRow:
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        row = json.loads(text.strip(_AROUND))
    except (ValueError, RecursionError) as error:
        return BadRow("not JSON", f"is not JSON ({error}); expected an object with '{field}'")
    if isinstance(row, list) and isinstance(content, bytes):
        problem = f"expected an object with '{field}', found list; an array of rows is read from a .json file"
        return BadRow("not an object", problem)
    return text_of_row(row, field)


def _first_character(path: Path) -> str:
    for chunk in text_chunks(path):
        if text := chunk.lstrip():
            return text[0]
    return ""


def _check_not_one_object(path: Path) -> None:
    """Refuse one object that is written over several lines: nothing says which of its texts are documents."""
    first = next(line for line in byte_lines(path) if line.strip())
    if first.strip() == b"{":
        problem = "holds one object over several lines; expected an array of objects, or an object a line"
        fix = "leave it out, or write its rows as JSON lines"
        raise DataError(problem, kind="unreadable", file=path, fix=fix)


def _array(path: Path, field: str) -> Rows:
    for number, element in enumerate(_elements(path), 1):
        yield number, _text(element, field)


def _elements(path: Path) -> Iterator[str]:
    """The elements of an array as text. At most one element and one chunk are in memory.

    Only brackets, commas and quotes are looked at, so that a broken element doesn't hide those behind it.
    """
    depth, in_string, escaped = 0, False, False
    element: list[str] = []
    for chunk in text_chunks(path):
        start = 0
        if escaped:  # the character that was escaped stands at the beginning of this chunk
            position, escaped = 1, False
        else:
            position = 0
        while match := _STRUCTURE.search(chunk, position):
            position = match.end()
            character = match[0]
            if in_string:
                if character == "\\":
                    position += 1
                    escaped = position > len(chunk)
                elif character == '"':
                    in_string = False
                continue
            if character == '"':
                in_string = True
            elif character in "{[":
                depth += 1
                if depth == 1:
                    start = position
            elif character in "}]":
                depth -= 1
            if (character == "," and depth == 1) or (character == "]" and depth == 0):
                element.append(chunk[start : position - 1])
                text = "".join(element).strip()
                if text or character == ",":
                    yield text
                if depth == 0:
                    _check_end(chunk[position:], path)
                    return
                element, start = [], position
        element.append(chunk[start:])
    raise DataError("its array doesn't end: the file is cut short", kind="unreadable", file=path)


def _check_end(rest: str, path: Path) -> None:
    if rest.strip():
        problem = "goes on after the end of its array; expected one array of objects, or an object a line"
        raise DataError(problem, kind="unreadable", file=path)

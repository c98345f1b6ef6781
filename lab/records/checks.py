"""Reading a JSON file as typed values: each is checked once, and what is wrong is said with file and key.

These files are written by this lab, but also by hand, by other versions, and by disks that fill up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard, TypeVar

from lab.refusals import RequestError

T = TypeVar("T")

LARGEST_WHOLE = 2**63
"""Whole numbers at or beyond it are refused: event files and arrays hold none."""
LARGEST = 1e100
"""No run measures anything larger. Squares of values up to it, and sums of the squares, don't overflow."""


class BrokenRecord(RequestError, ValueError):
    """A file is missing or isn't what it should be. The message names the file, and the key where one is wrong."""

    def __init__(self, path: Path, problem: str, key: str | None = None) -> None:
        super().__init__(problem, kind="unreadable" if key is None else "wrong_value", file=path, key=key)


class WrongValue(ValueError):
    """A value isn't what its key takes."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem


class Fields:
    """The entries of a JSON object, each read as the type that its key takes.

    Args:
        values: the object.
        place: what comes before a key in messages, such as `runs[3].`.
    """

    __slots__ = ("_place", "_values")

    def __init__(self, values: Mapping[str, object], place: str = "") -> None:
        self._values = values
        self._place = place

    def wrong(self, key: str, expected: str) -> WrongValue:
        """The error for a value that isn't what was expected, or that is missing."""
        if key not in self._values:
            return WrongValue(self._place + key, f"expected {expected}, and it is missing")
        return WrongValue(self._place + key, f"expected {expected}, got {shorten(self._values[key])}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._values.get(key, default)
        if isinstance(value, str):
            return value
        raise self.wrong(key, "a text")

    def text_or_none(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self.wrong(key, "a text or null")

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._values.get(key, default)
        if type(value) is int and -LARGEST_WHOLE < value < LARGEST_WHOLE:
            return value
        raise self.wrong(key, "a whole number")

    def whole_or_none(self, key: str) -> int | None:
        return None if self._values.get(key) is None else self.whole(key)

    def finite(self, key: str, default: float | None = None) -> float:
        value = self._values.get(key, default)
        if is_number(value) and math.isfinite(value):
            return value
        raise self.wrong(key, "a number")

    def finite_or_none(self, key: str) -> float | None:
        return None if self._values.get(key) is None else self.finite(key)

    def number_or_none(self, key: str) -> float | None:
        """A number, NaN and infinities among them."""
        value = self._values.get(key)
        if value is None or is_number(value):
            return value
        raise self.wrong(key, "a number or null")

    def mapping(self, key: str) -> Mapping[str, object]:
        """A mapping; empty where it is missing or null."""
        value = self._values.get(key)
        if value is None:
            return {}
        if isinstance(value, dict):
            return value
        raise self.wrong(key, "a mapping or null")

    def mapping_or_none(self, key: str) -> Mapping[str, object] | None:
        return None if self._values.get(key) is None else self.mapping(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty where it is missing or null."""
        value = self._values.get(key)
        if value is None:
            return ()
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise self.wrong(key, "a list of texts or null")

    def mappings(self, key: str) -> list[Fields]:
        """A list of mappings; empty where it is missing or null."""
        value = self._values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                raise WrongValue(f"{self._place}{key}[{number}]", f"expected a mapping, got {shorten(item)}")
        return [Fields(item, f"{self._place}{key}[{number}].") for number, item in enumerate(value)]

    def fields(self, key: str) -> Fields:
        """The mapping at a key, to read its entries; empty where it is missing or null."""
        return Fields(self.mapping(key), f"{self._place}{key}.")

    def numbers(self, key: str) -> dict[str, float]:
        """The entries of a mapping that are numbers, NaN and infinities among them; others were not measured."""
        value = self._values.get(key)
        if not isinstance(value, dict):
            return {}
        return {name: number for name, number in value.items() if is_number(number)}

    def measured(self, key: str) -> dict[str, float]:
        """As `numbers`, of what a run measured: a finite value that no run can have measured is wrong."""
        values = self._values.get(key)
        for name, value in values.items() if isinstance(values, dict) else ():
            if type(value) in (int, float) and value == value and abs(value) != math.inf and not is_measured(value):
                shown = f"{value:g}" if isinstance(value, float) else f"a number of {len(str(abs(value)))} digits"
                problem = f"expected a number up to {LARGEST:g} in size, got {shown}"
                raise WrongValue(f"{self._place}{key}.{name}", problem)
        return self.numbers(key)

    def any(self, key: str) -> object:
        """The value, whatever it is; None where it is missing."""
        return self._values.get(key)

    def others(self, keys: Iterable[str]) -> dict[str, object]:
        """The entries under all other keys."""
        known = frozenset(keys)
        return {key: value for key, value in self._values.items() if key not in known}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __bool__(self) -> bool:
        return bool(self._values)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number to compute with, NaN and infinities among them; JSON's integers may be of any length."""
    return type(value) is float or (type(value) is int and -LARGEST_WHOLE < value < LARGEST_WHOLE)


def is_measured(value: object) -> TypeGuard[float]:
    """Whether it is a number that a run can have measured: finite, and not larger than any quantity is."""
    return (type(value) is int or type(value) is float) and -LARGEST <= value <= LARGEST


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Raises:
        BrokenRecord: it is missing or can't be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BrokenRecord(path, "missing") from None
    except OSError as error:
        raise BrokenRecord(path, error.strerror or str(error)) from None


def parse(path: Path, content: bytes, build: Callable[[Fields], T], *, newest: int, what: str) -> T:
    """The record in a file's content.

    Args:
        build: makes it of the JSON object's fields.
        newest: newest version of the format that this lab reads; a file without a version is of the first.
        what: the file's content in a few words, for messages.
    Raises:
        BrokenRecord: it is no JSON object, of a newer version, or a value in it is wrong.
    """
    try:
        value = load_json(content)
    except (ValueError, RecursionError) as error:
        raise BrokenRecord(path, f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise BrokenRecord(path, f"not {what}")
    fields = Fields(value)
    try:
        version = fields.whole("version", 1)
        if version > newest:
            problem = f"is {version}, and this lab reads versions up to {newest}: a newer lab wrote it; use that one"
            raise BrokenRecord(path, problem, "version")
        return build(fields)
    except WrongValue as error:
        raise BrokenRecord(path, error.problem, error.key) from None


def load_json(content: bytes) -> object:
    """The value of a JSON text, whose own texts can be printed and written.

    What can't be written, half a character, is shown as an escape such as `\\udce9`.
    """
    try:
        text = content.decode("utf-8")
        clean = "\\ud" not in text and "\\uD" not in text  # the escapes of halves of characters
    except UnicodeDecodeError:
        text, clean = content.decode(json.detect_encoding(content), "surrogatepass"), False
    value: object = json.loads(text)
    return value if clean else escape_surrogates(value)


def escape_surrogates(value: object) -> object:
    """The value with texts that can be written: half a character becomes an escape such as `\\udce9`."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {escape_text(key): escape_surrogates(item) for key, item in value.items()}
    return [escape_surrogates(item) for item in value] if isinstance(value, Sequence) else value


def escape_text(text: str) -> str:
    """The text with half a character as an escape such as `\\udce9`, so that it can be printed and written."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shorten(value: object, most: int = 60) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"

"""Reading a JSON file as typed values. Each value is checked once, and an error names the file and the key.

The files may have been edited by hand, written by another version of the lab, or cut off by a full disk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard, TypeVar

from lab.refusals import RequestError

T = TypeVar("T")

LARGEST_INTEGER = 2**63
"""Integers of at least this size are refused: event files and arrays can't hold them."""
LARGEST_MEASUREMENT = 1e100
"""The largest value that counts as measured. Squares of such values, and sums of the squares, don't overflow."""


class BrokenRecord(RequestError, ValueError):
    """A file is missing, can't be read, or has a wrong value. The error names the file, and the key of the value."""

    def __init__(self, path: Path, problem: str, key: str | None = None) -> None:
        super().__init__(problem, kind="unreadable" if key is None else "wrong_value", file=path, key=key)


class WrongValue(ValueError):
    """A value is not of the kind that its key takes.

    Attributes:
        key: the path of the value in the file, such as `runs[3].seed`.
        problem: what is wrong with it.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem


class Fields:
    """The entries of a JSON object, each read as the type that its key takes.

    All methods raise `WrongValue` for a value of another type.

    Args:
        values: the object.
        place: the prefix of its keys in messages, such as `runs[3].`.
    """

    __slots__ = ("_place", "_values")

    def __init__(self, values: Mapping[str, object], place: str = "") -> None:
        self._values = values
        self._place = place

    def wrong(self, key: str, expected: str) -> WrongValue:
        """The error for a value that is missing, or isn't what was expected."""
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

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._values.get(key, default)
        if type(value) is int and -LARGEST_INTEGER < value < LARGEST_INTEGER:
            return value
        raise self.wrong(key, "a whole number")

    def integer_or_none(self, key: str) -> int | None:
        return None if self._values.get(key) is None else self.integer(key)

    def finite(self, key: str, default: float | None = None) -> float:
        value = self._values.get(key, default)
        if is_number(value) and math.isfinite(value):
            return value
        raise self.wrong(key, "a number")

    def finite_or_none(self, key: str) -> float | None:
        return None if self._values.get(key) is None else self.finite(key)

    def number_or_none(self, key: str) -> float | None:
        """A number, NaN and infinities included."""
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
        """The entries of a mapping that are numbers, NaN and infinities included. Other entries are left out."""
        value = self._values.get(key)
        if not isinstance(value, dict):
            return {}
        return {name: number for name, number in value.items() if is_number(number)}

    def measurements(self, key: str) -> dict[str, float]:
        """As `numbers`, for what a run measured: finite values beyond LARGEST_MEASUREMENT are refused."""
        values = self._values.get(key)
        for name, value in values.items() if isinstance(values, dict) else ():
            if type(value) in (int, float) and value == value and abs(value) != math.inf and not is_measured(value):
                size = f"{value:g}" if isinstance(value, float) else f"a number of {len(str(abs(value)))} digits"
                problem = f"expected a number up to {LARGEST_MEASUREMENT:g} in size, got {size}"
                raise WrongValue(f"{self._place}{key}.{name}", problem)
        return self.numbers(key)

    def any(self, key: str) -> object:
        """The value, of any type; None where it is missing."""
        return self._values.get(key)

    def others(self, keys: Iterable[str]) -> dict[str, object]:
        """The entries under all other keys."""
        excluded = frozenset(keys)
        return {key: value for key, value in self._values.items() if key not in excluded}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __bool__(self) -> bool:
        return bool(self._values)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number to compute with, NaN and infinities included. Integers in JSON may be too large."""
    return type(value) is float or (type(value) is int and -LARGEST_INTEGER < value < LARGEST_INTEGER)


def is_measured(value: object) -> TypeGuard[float]:
    """Whether a value is a number that a run can have measured: finite, and at most LARGEST_MEASUREMENT in size."""
    return (type(value) is int or type(value) is float) and -LARGEST_MEASUREMENT <= value <= LARGEST_MEASUREMENT


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
    """Parse a file's content as a record.

    Args:
        build: makes the record from the fields of the JSON object.
        newest: the newest version of the format that this lab reads. A file without a version has version 1.
        what: the kind of record in a few words, for messages.
    Raises:
        BrokenRecord: the content is no JSON object, has a newer version, or has a wrong value.
    """
    try:
        value = load_json(content)
    except (ValueError, RecursionError) as error:
        raise BrokenRecord(path, f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise BrokenRecord(path, f"not {what}")
    fields = Fields(value)
    try:
        version = fields.integer("version", 1)
        if version > newest:
            problem = f"is {version}, and this lab reads versions up to {newest}: a newer lab wrote it; use that one"
            raise BrokenRecord(path, problem, "version")
        return build(fields)
    except WrongValue as error:
        raise BrokenRecord(path, error.problem, error.key) from None


def load_json(content: bytes) -> object:
    """The value of a JSON text, with all strings printable.

    A lone surrogate, which UTF-8 can't encode, becomes an escape such as `\\udce9`.
    """
    try:
        text = content.decode("utf-8")
        clean = "\\ud" not in text and "\\uD" not in text  # the escapes of surrogates
    except UnicodeDecodeError:
        text, clean = content.decode(json.detect_encoding(content), "surrogatepass"), False
    value: object = json.loads(text)
    return value if clean else escape_surrogates(value)


def escape_surrogates(value: object) -> object:
    """The value with each lone surrogate in its strings as an escape such as `\\udce9`, so that it can be written."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {escape_text(key): escape_surrogates(item) for key, item in value.items()}
    return [escape_surrogates(item) for item in value] if isinstance(value, Sequence) else value


def escape_text(text: str) -> str:
    """The text with each lone surrogate as an escape such as `\\udce9`, so that it can be printed and written."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shorten(value: object, most: int = 60) -> str:
    """A value as text for a message, at most `most` characters long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"

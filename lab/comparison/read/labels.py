"""What run.json and plan.json say, checked where it is read: all that follows relies on it.

Both are written by this lab, but also by hand, by other versions, and by disks that fill up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lab.records.folder import check_name

# Of an arm's name: file systems stop at 255, and folders are called `arm,cell` and `seed-n-identity`.
_LONGEST_BYTES = 200
_LARGEST = 2**63  # event files and arrays hold no larger integer


class WrongShape(ValueError):
    """A value isn't what its key takes. The message begins with the key."""


class _Kind(NamedTuple):
    expected: str
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether it is a number to compute with, NaN and infinities among them; JSON's integers may be of any length."""
    return type(value) is float or (type(value) is int and -_LARGEST < value < _LARGEST)


def _is_arm(value: Any) -> bool:
    try:
        check_name(value)
    except (ValueError, TypeError, AttributeError):
        return False
    return len(value.encode()) <= _LONGEST_BYTES


def _is_folder(value: Any) -> bool:
    return isinstance(value, str) and value.count("/") == 2 and all(map(_is_arm, value.split("/")))


def _or_null(expected: str, fits: Callable[[Any], bool]) -> _Kind:
    return _Kind(f"{expected} or null", lambda value: value is None or fits(value))


def _is_size(value: Any) -> bool:
    return is_number(value) and math.isfinite(value) and value >= 0


_TEXT = _or_null("a text", lambda value: isinstance(value, str))
_MAPPING = _or_null("a mapping", lambda value: isinstance(value, dict))
_ARM = _Kind("a name that is fit for a folder", _is_arm)
_SEED = _Kind("a whole number", lambda value: type(value) is int and is_number(value))
_IDENTITY = _Kind("a text", lambda value: isinstance(value, str))

_LABELS = {
    "question": _TEXT,
    "baseline": _TEXT,
    "metrics": _or_null(
        "a list of names",
        lambda value: isinstance(value, list) and all(isinstance(each, str) and each for each in value),
    ),
    "match": _TEXT,
    "matching": _MAPPING,
    "tune_metric": _TEXT,
}
_RUN = {
    "arm": _ARM,
    "seed": _SEED,
    "role": _Kind("a text", lambda value: isinstance(value, str)),
    "order": _Kind("a number", lambda value: is_number(value) and math.isfinite(value)),
    "axes": _MAPPING,
    "tuned": _MAPPING,
}
_ROW = {
    "identity": _IDENTITY,
    "arm": _ARM,
    "seed": _SEED,
    "role": _RUN["role"],
    "axes": _MAPPING,
    "cell": _TEXT,
    "tuned": _MAPPING,
    "folder": _or_null("sweep/arm/seed-n, a folder below the root,", _is_folder),
}


def check_labels(found: Mapping[str, Any]) -> None:
    """Check what a plan.json, or a run.json, says of its sweep.

    Raises:
        WrongShape: naming the first key that is wrong.
    """
    _check(found, _LABELS)
    tolerance = (found.get("matching") or {}).get("tolerance")
    if tolerance is not None and not _is_size(tolerance):
        raise WrongShape(f"`matching.tolerance`: expected a number from 0 up or null, got {_shown(tolerance)}")


def check_run(info: Mapping[str, Any]) -> None:
    """Check a run.json, the labels of its sweep among it.

    Raises:
        WrongShape: as for `check_labels`.
    """
    if "arm" not in info or "seed" not in info:
        raise WrongShape("has no arm and seed")
    _check(info, _RUN)
    check_labels(info)


def check_rows(rows: Any) -> None:
    """Check the runs that a plan.json lists.

    Raises:
        WrongShape: as for `check_labels`; the key is such as `runs[3].seed`.
    """
    if not isinstance(rows, list):
        raise WrongShape(f"`runs`: expected a list, got {_shown(rows)}")
    tuned: dict[Any, set[str]] = {}  # arm → the axes that its cells have values of
    for number, row in enumerate(rows):
        place = f"runs[{number}]"
        if not isinstance(row, dict) or "identity" not in row:
            raise WrongShape(f"`{place}`: expected a mapping with an `identity`, got {_shown(row)}")
        _check(row, _ROW, f"{place}.")
        axes = set(row.get("tuned") or {})
        if row.get("cell") and tuned.setdefault(row.get("arm"), axes) != axes:
            raise WrongShape(f"`{place}.tuned`: expected the axes of the arm's other cells")


def _check(found: Mapping[str, Any], kinds: Mapping[str, _Kind], place: str = "") -> None:
    for key, kind in kinds.items():
        if key in found and not kind.fits(found[key]):
            raise WrongShape(f"`{place}{key}`: expected {kind.expected}, got {_shown(found[key])}")


def _shown(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def printable(found: Any) -> Any:
    """The same, of JSON, with texts that can be printed and written: half a character, or a byte that is none, as
    `\\udce9`."""
    try:
        json.dumps(found, ensure_ascii=False).encode()  # in a quarter of the time
    except UnicodeEncodeError:
        return _cleaned(found)
    return found


def _cleaned(found: Any) -> Any:
    if isinstance(found, str):
        return found.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(found, dict):
        return {_cleaned(key): _cleaned(value) for key, value in found.items()}
    return [_cleaned(value) for value in found] if isinstance(found, list) else found

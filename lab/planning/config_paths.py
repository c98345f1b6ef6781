"""Dotted paths into configurations: read a value, replace a value in a copy, list the differences of two."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

ABSENT = "–"
"""The value shown for a key that one of two configurations doesn't have."""


def path_parts(key: str) -> list[str]:
    """Split a configuration path or a group: `model/heads` and `model.heads` give the same parts."""
    return re.split(r"[./]", key)


def value_at(config: object, key: str) -> object:
    """The value at a path in nested dataclasses and mappings; None if there is no such option."""
    value = config
    for part in path_parts(key):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif dataclasses.is_dataclass(value) and part in (field.name for field in dataclasses.fields(value)):
            value = getattr(value, part)
        else:
            return None
    return value


def with_value_at(config: object, path: Sequence[str], new: object) -> object:
    """A copy of nested dataclasses and mappings with a new value at a path."""
    if not path:
        return new
    if isinstance(config, Mapping):
        return {**config, path[0]: with_value_at(config[path[0]], path[1:], new)}
    inner = with_value_at(getattr(config, path[0]), path[1:], new)
    return dataclasses.replace(config, **{path[0]: inner})  # type: ignore[type-var]


def differences(a: Mapping[str, object], b: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Dotted key → (value in a, value in b), for every leaf in which two plain configurations differ.

    A key that only one of them has is ABSENT in the other. Lists are leaves. Keys of a come first, then those of b.
    """
    left, right = dict(flatten(a)), dict(flatten(b))
    keys = dict.fromkeys([*left, *right])
    return {
        key: (left.get(key, ABSENT), right.get(key, ABSENT))
        for key in keys
        if key not in left or key not in right or not _is_same(left[key], right[key])
    }


def flatten(plain: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of every leaf. An empty mapping is a leaf."""
    for key, value in plain.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, path)
        else:
            yield path, value


def _is_same(a: object, b: object) -> bool:
    # 1, 1.0 and True are equal in Python but mean different things in a configuration.
    return type(a) is type(b) and bool(a == b)

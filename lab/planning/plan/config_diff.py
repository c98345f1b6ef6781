"""What makes two configurations different, key by key, derived values too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = "–"
"""Stands for the value of a key that one of the two doesn't have."""


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key → (value in a, value in b), for every leaf in which two plain configurations differ.

    A key that only one of them has stands as ABSENT in the other. Lists are leaves. The order of keys is a's, then b's.
    """
    left, right = dict(flat(a)), dict(flat(b))
    keys = dict.fromkeys([*left, *right])
    return {
        key: (left.get(key, ABSENT), right.get(key, ABSENT))
        for key in keys
        if key not in left or key not in right or not _same(left[key], right[key])
    }


def flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; an empty mapping is a leaf."""
    for key, value in plain.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat(value, path)
        else:
            yield path, value


def _same(a: Any, b: Any) -> bool:
    # 1, 1.0 and True are equal in Python and mean different things in a configuration.
    return type(a) is type(b) and bool(a == b)

"""Configurations as plain data: dicts, lists and scalars, with dotted paths into them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

Plain: TypeAlias = dict[str, object]

ABSENT = object()


def deep_copy(plain: Mapping[str, object]) -> Plain:
    """A copy with new dicts and lists at every level."""
    return {key: _copied(value) for key, value in plain.items()}


def _copied(value: object) -> object:
    if isinstance(value, Mapping):
        return deep_copy(value)
    return [_copied(item) for item in value] if isinstance(value, list) else value


def select(plain: Mapping[str, object], path: str) -> object:
    """The value at a dotted path; ABSENT if there is none. The empty path gives the whole configuration."""
    value: object = plain
    for key in path.split(".") if path else ():
        value = value.get(key, ABSENT) if isinstance(value, Mapping) else ABSENT
    return value


def put(plain: Plain, path: str, value: object) -> None:
    """Set the value at a dotted path, in place. The last key may be new, the keys above must exist."""
    parent, _, last = path.rpartition(".")
    holder = select(plain, parent)
    assert isinstance(holder, dict), f"{path} is below a value"
    holder[last] = value


def leaves(key: str, value: object) -> Iterator[str]:
    """The dotted paths of all values in a nested mapping at a key."""
    if not isinstance(value, Mapping):
        yield key
        return
    for name, item in value.items():
        yield from leaves(f"{key}.{name}", item)

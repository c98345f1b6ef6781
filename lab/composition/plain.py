"""Configurations as plain data: dicts, lists and scalars, with dotted paths into them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

Plain: TypeAlias = dict[str, object]

ABSENT = object()


def copied(plain: Mapping[str, object]) -> Plain:
    """A copy in which every dict and list is a new one."""
    return {key: _copied(value) for key, value in plain.items()}


def _copied(value: object) -> object:
    if isinstance(value, Mapping):
        return copied(value)
    return [_copied(item) for item in value] if isinstance(value, list) else value


def select(plain: Mapping[str, object], path: str) -> object:
    """The value at a dotted path; ABSENT if there is none. The empty path is the whole."""
    value: object = plain
    for key in path.split(".") if path else ():
        value = value.get(key, ABSENT) if isinstance(value, Mapping) else ABSENT
    return value


def put(plain: Plain, path: str, value: object) -> None:
    """Set the value at a dotted path, whose last key may be new."""
    parent, _, last = path.rpartition(".")
    holder = select(plain, parent)
    assert isinstance(holder, dict), f"{path} is below a value"
    holder[last] = value


def leaves(key: str, value: object) -> Iterator[str]:
    """The paths of the values in a nested mapping that stands at a key."""
    if not isinstance(value, Mapping):
        yield key
        return
    for name, item in value.items():
        yield from leaves(f"{key}.{name}", item)

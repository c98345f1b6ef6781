"""Strict conversion of plain YAML values to typed dataclasses. Unknown keys and wrong types are refused by path."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from components import registry
from components.registry import Component, OptionError
from lab.composition import memo
from lab.refusals import RequestError, Where

T = TypeVar("T")

_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_NUMBER = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kMBGT]?)\s*")


def join_path(path: str, key: str) -> str:
    """Append a key to a dotted path, which may be empty."""
    return f"{path}.{key}" if path else key


def convert(annotation: object, value: object, path: str) -> Any:
    """Convert a value to the annotated type.

    Whole numbers may be written as 200k, 1.5M or 2B. Dataclasses are made from mappings, components from mappings with
    `name`.

    Raises:
        RequestError: at the path, with what was expected and, for a name, the nearest valid one.
    """
    origin, members = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        others = [member for member in members if member is not type(None)]
        if value is None and len(others) < len(members):
            return None
        return _first_that_fits(others, value, path)
    if origin is Literal:
        if isinstance(value, bool) and {"on", "off"} <= set(members):  # YAML reads a bare on or off as a boolean
            value = "on" if value else "off"
        return _choice(members, value, path)
    if origin in (tuple, list):
        return _sequence(annotation, members, value, path)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(members[1], value, path)
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return component(annotation.kind, value, path)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return dataclass(annotation, value, path)
    return _scalar(annotation, value, path)


def dataclass(cls: type[T], value: object, path: str = "") -> T:
    """Convert a mapping to a configuration dataclass.

    If a field's metadata has a function `parse`, that function reads the option. It returns None for a value that it
    can't read; the metadata `expected` then describes valid values.

    Within `memo.scope`, equal parts of configurations become the same object.

    Raises:
        RequestError: at the path of an unknown key, a missing option or a wrong value.
    """
    # A whole configuration rarely appears twice, and its text as a key would be long.
    if not path:
        return _dataclass(cls, value, path)
    return memo.cached((cls, repr(value)), lambda: _dataclass(cls, value, path))


def _dataclass(cls: type[T], value: object, path: str) -> T:
    if not isinstance(value, Mapping):
        raise RequestError(key=path, given=value, expected="keys and values")
    options = {option.name: option for option in registry.options(cls)}
    for key in map(str, value):
        if key not in options:
            raise RequestError(kind="unknown_key", key=join_path(path, key), given=key, expected=tuple(options))
    arguments = {}
    for name, option in options.items():
        if name in value and value[name] != "???":
            arguments[name] = _option(option, value[name], join_path(path, name))
        elif option.required:
            description = option.expected or expected(option.type)
            raise RequestError(kind="missing", key=join_path(path, name), expected=description)
    try:
        return cls(**arguments)
    except OptionError as error:
        raise RequestError.of_option(error, Where(key=path or None)) from None


def _option(option: registry.Option, value: object, path: str) -> object:
    if option.parse is None or (value is None and type(None) in get_args(option.type)):
        return convert(option.type, value, path)
    parsed = option.parse(value)
    if parsed is None:
        raise RequestError(key=path, given=value, expected=option.expected)
    return parsed


def component(kind: str, value: object, path: str) -> Component:
    """Convert `{name: …, options…}`, or a name alone, to a component.

    Raises:
        RequestError: at the path, for an unknown kind, name or option.
    """
    if kind not in registry.kinds():
        raise RequestError("no such slot", kind="unknown_key", key=path, given=kind, expected=tuple(registry.kinds()))
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or "name" not in value:
        names = tuple(registry.names(kind))
        raise RequestError(f"expected a {kind} with its name", kind="missing", key=path, expected=names)
    try:
        cls = registry.lookup(kind, str(value["name"]))
    except registry.UnknownComponent as error:
        raise RequestError.of_name(error, Where(key=path or None)) from None
    return dataclass(cls, {key: item for key, item in value.items() if key != "name"}, path)


def expected(annotation: object) -> str:
    """A description of a type for messages."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if member is type(None) else expected(member) for member in members)
    if origin is Literal:
        return "one of " + ", ".join(map(str, members))
    if origin in (tuple, list):
        return f"a list, each {expected(members[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return f"a {annotation.kind} ({', '.join(registry.names(annotation.kind))})"
    words: dict[object, str] = {
        int: "a whole number such as 64, 200k or 1.5M",
        float: "a number",
        bool: "true or false",
        str: "a text",
    }
    return words.get(annotation, "keys and values")


def _first_that_fits(members: list[object], value: object, path: str) -> object:
    for member in members[:-1]:
        try:
            return convert(member, value, path)
        except RequestError:
            continue
    return convert(members[-1], value, path)


def _choice(choices: tuple[object, ...], value: object, path: str) -> object:
    if value not in choices or isinstance(value, bool) != any(isinstance(choice, bool) for choice in choices):
        raise RequestError(key=path, given=value, expected=tuple(map(str, choices)))
    return value


def _sequence(annotation: object, members: tuple[object, ...], value: object, path: str) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise RequestError(key=path, given=value, expected=expected(annotation))
    if len(members) == 1 or members[1:] == (Ellipsis,):
        members = (members[0],) * len(value)
    if len(value) != len(members):
        raise RequestError(f"expected a list of {len(members)} values, got {len(value)}", key=path, given=value)
    items = zip(members, value, strict=True)
    return tuple(convert(member, item, f"{path}[{index}]") for index, (member, item) in enumerate(items))


def _mapping(member: object, value: object, path: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise RequestError(key=path, given=value, expected="keys and values")
    if member is Component:  # a mapping from slots to components: the key is the kind
        return {str(kind): component(str(kind), item, join_path(path, str(kind))) for kind, item in value.items()}
    return {str(key): convert(member, item, join_path(path, str(key))) for key, item in value.items()}


def _scalar(annotation: object, value: object, path: str) -> object:
    if annotation in (Any, object):
        return value
    if annotation in (bool, str) and isinstance(value, cast(type, annotation)):
        return value
    if annotation is int and (whole := whole_number(value)) is not None:
        return whole
    if annotation is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise RequestError(key=path, given=value, expected=expected(annotation))


def whole_number(value: object) -> int | None:
    """An int from 200000, 2e5, '200k', '1.5M' or '2B'; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    scaled = float(match[1].replace("_", "")) * _SUFFIXES[match[2]]
    return round(scaled) if math.isclose(scaled, round(scaled), rel_tol=1e-12) else None

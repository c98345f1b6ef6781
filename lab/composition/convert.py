"""From plain YAML values to typed dataclasses, strictly: unknown keys and wrong types are refused by path."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from components import registry
from components.registry import Component, OptionError
from lab.composition import memo

_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_NUMBER = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kMBGT]?)\s*")


class ConversionError(ValueError):
    """A value at a configuration path is not what its field takes."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


def join(path: str, key: str) -> str:
    """A dotted path one key deeper."""
    return f"{path}.{key}" if path else str(key)


def convert(annotation: Any, value: Any, path: str) -> Any:
    """`value` as the annotated type.

    Whole numbers may be written 200k, 1.5M, 2B. Dataclasses come from mappings, components from mappings with `name`.

    Raises:
        ConversionError: with the path, what was expected and, for names, the nearest valid one.
    """
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if value is None and len(members) < len(get_args(annotation)):
            return None
        return _first_that_fits(members, value, path)
    if origin is Literal:
        choices = get_args(annotation)
        if isinstance(value, bool) and {"on", "off"} <= set(choices):  # what YAML makes of a bare on or off
            value = "on" if value else "off"
        return _choice(choices, value, path)
    if origin in (tuple, list):
        return _sequence(annotation, value, path)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _mapping(annotation, value, path)
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return component(annotation.kind, value, path)
    if dataclasses.is_dataclass(annotation):
        return dataclass(annotation, value, path)
    return _scalar(annotation, value, path)


def dataclass(cls: Any, value: Any, path: str) -> Any:
    """A configuration dataclass from a mapping.

    Within `memo.scope`, equal parts of configurations come to the same object.
    """
    # The whole is hardly ever met twice, and its text would be long.
    if not path:
        return _dataclass(cls, value, path)
    return memo.cached((cls, repr(value)), lambda: _dataclass(cls, value, path))


def _dataclass(cls: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConversionError(path, f"expected keys and values, got {_shown(value)}")
    options = {option.name: option for option in registry.options(cls)}
    for key in value:
        if key not in options:
            raise ConversionError(join(path, key), f"no such key{registry.suggestion(str(key), options)}")
    arguments = {}
    for name, option in options.items():
        if name in value and value[name] != "???":
            arguments[name] = convert(option.type, value[name], join(path, name))
        elif option.required:
            raise ConversionError(join(path, name), f"is missing: expected {option.expected or expected(option.type)}")
    try:
        return cls(**arguments)
    except OptionError as error:
        raise ConversionError(join(path, error.option), error.message) from None


def component(kind: str, value: Any, path: str) -> Component:
    """A component from `{name: …, options…}`, or from its name alone."""
    if kind not in registry.kinds():
        raise ConversionError(path, f"no such slot{registry.suggestion(kind, registry.kinds())}")
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or "name" not in value:
        raise ConversionError(path, f"expected a {kind} with its name{registry.suggestion('', registry.names(kind))}")
    try:
        cls = registry.lookup(kind, str(value["name"]))
    except registry.UnknownComponent as error:
        raise ConversionError(path, str(error)) from None
    built = dataclass(cls, {key: v for key, v in value.items() if key != "name"}, path)
    assert isinstance(built, Component)
    return built


def expected(annotation: Any) -> str:
    """A type in a researcher's words."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if member is type(None) else expected(member) for member in get_args(annotation))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if origin in (tuple, list):
        return f"a list, each {expected(get_args(annotation)[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return f"a {annotation.kind} ({', '.join(registry.names(annotation.kind))})"
    words = {int: "a whole number such as 64, 200k or 1.5M", float: "a number", bool: "true or false", str: "a text"}
    return words.get(annotation, "keys and values")


def _first_that_fits(members: list[Any], value: Any, path: str) -> Any:
    for member in members[:-1]:
        try:
            return convert(member, value, path)
        except ConversionError:
            continue
    return convert(members[-1], value, path)


def _choice(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    if value not in choices or isinstance(value, bool) != any(isinstance(choice, bool) for choice in choices):
        near = registry.suggestion(str(value), map(str, choices))
        raise ConversionError(path, f"{_shown(value)} is not among its values{near}")
    return value


def _sequence(annotation: Any, value: Any, path: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ConversionError(path, f"expected {expected(annotation)}, got {_shown(value)}")
    members = get_args(annotation)
    if (len(members) == 2 and members[1] is Ellipsis) or len(members) == 1:
        return tuple(convert(members[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if len(value) != len(members):
        raise ConversionError(path, f"expected a list of {len(members)} values, got {len(value)}")
    pairs = zip(members, value, strict=True)
    return tuple(convert(member, item, f"{path}[{i}]") for i, (member, item) in enumerate(pairs))


def _mapping(annotation: Any, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConversionError(path, f"expected keys and values, got {_shown(value)}")
    member = get_args(annotation)[1]
    if member is Component:  # a mapping from slots to components: the key is the kind
        return {str(kind): component(str(kind), item, join(path, str(kind))) for kind, item in value.items()}
    return {str(key): convert(member, item, join(path, str(key))) for key, item in value.items()}


def _scalar(annotation: Any, value: Any, path: str) -> Any:
    if annotation is Any:
        return value
    if annotation is bool and isinstance(value, bool):
        return value
    if annotation is str and isinstance(value, str):
        return value
    if annotation is int and (whole := whole_number(value)) is not None:
        return whole
    if annotation is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ConversionError(path, f"expected {expected(annotation)}, got {_shown(value)}")


def whole_number(value: Any) -> int | None:
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


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"'{value}'" if isinstance(value, str) else str(value)

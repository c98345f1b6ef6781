"""Every option of an architecture, one at a time at another valid value."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin

from components import registry
from components.architecture import KIND_SLOTS, Architecture
from components.registry import Component, Option, OptionError

SIZES = ("vocab_size", "d_model", "n_layers")

IDLE = {
    "init.std": "how weights start, which given weights don't show",
    "embedding.z_loss": "read by training alone",
    "mlp.load_balance": "read by training alone",
    "mlp.router_z_loss": "read by training alone",
}
"""Options that don't change what given weights compute, and why."""


def flips(architecture: Architecture) -> Iterator[tuple[str, list[Architecture]]]:
    """(option's path, the architecture with its other values): `heads.bias`, `kinds.global.position.theta`, …

    An option of one value has none. Of several other values, any may be the one that shows.
    """
    for size in SIZES:
        value = getattr(architecture, size)
        yield size, _valid(partial(replace, architecture, **{size: other}) for other in (value + 1, value - 1))
    yield "pattern", _valid(partial(replace, architecture, pattern=other) for other in _patterns(architecture))
    for path, component in architecture.components().items():
        for option in registry.options(type(component)):
            values = _others(option, getattr(component, option.name))
            others = _valid(partial(component.replace, **{option.name: value}) for value in values)
            yield f"{path}.{option.name}", _valid(partial(_with, architecture, path, other) for other in others)


def _others(option: Option, value: Any) -> list[Any]:
    """Other values of an option's type."""
    origin = get_origin(option.type)
    members = get_args(option.type) if origin in (Union, types.UnionType) else (option.type,)
    if origin is Literal:
        return [other for other in get_args(option.type) if other != value]
    if isinstance(value, str):
        return [name for name in ("swiglu", "geglu", "reglu") if name != value]
    if isinstance(value, bool):
        return [not value]
    if value is None:
        return [{int: 3, float: 2.5}[member] for member in members if member in (int, float)]
    if isinstance(value, int):
        return [value + 1, value - 1, value * 2, value // 2]
    if isinstance(value, float):
        return [value * 4, value * 1.5, value / 2] if value else [0.5]
    raise TypeError(f"{option.name}: no other values are known for {value!r}")


def _patterns(architecture: Architecture) -> list[tuple[str, ...]]:
    pattern = architecture.repeated
    if len(set(pattern)) == 1:
        return []
    return [other for other in (pattern[1:] + pattern[:1], pattern[::-1], (*pattern, pattern[0])) if other != pattern]


def _with(architecture: Architecture, path: str, component: Component) -> Architecture:
    if not path.startswith("kinds."):
        return replace(architecture, **{path: component})
    _, kind, slot = path.split(".")
    assert slot in KIND_SLOTS
    return replace(architecture, kinds={**architecture.kinds, kind: {**architecture.kinds[kind], slot: component}})


def _valid(makers: Iterable[Callable[[], Any]]) -> list[Any]:
    found = []
    for make in makers:
        try:
            found.append(make())
        except OptionError:
            continue
    return found

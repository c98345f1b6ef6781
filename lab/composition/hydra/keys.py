"""The keys of an experiment's configuration, with the values that a key can have where they are few."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from components import registry
from lab.composition.hydra.groups import slots
from lab.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Key:
    """One key, such as `train.tokens` or `model.span.window`.

    Attributes:
        path: the key, with dots.
        values: the values that it can have, as written in an override; empty where they can't be listed.
        group: the group whose components have this option, such as `model/span`; None for a key outside of components.
        components: the names of those components.
    """

    path: str
    values: tuple[str, ...] = ()
    group: str | None = None
    components: tuple[str, ...] = ()


def keys() -> list[Key]:
    """All keys below an experiment: those of its sections and of every registered component in its slot."""
    of_components = [key for path, kind in slots().items() for key in _component_keys(path, kind)]
    return [*_section_keys(Experiment, ""), *of_components]


def _section_keys(cls: Any, prefix: str) -> Iterator[Key]:
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        annotation, path = hints[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(annotation):
            if path not in slots():
                yield from _section_keys(annotation, f"{path}.")
        elif path not in slots():
            yield Key(path, _values(annotation))


def _component_keys(path: str, kind: str) -> list[Key]:
    """The options of the components of a kind, each with the components that have it."""
    by_option: dict[str, Key] = {}
    for name in registry.names(kind):
        for option in registry.options(registry.lookup(kind, name)):
            known = by_option.get(option.name)
            values = tuple(dict.fromkeys([*(known.values if known else ()), *_values(option.type)]))
            components = (*(known.components if known else ()), name)
            by_option[option.name] = Key(f"{path}.{option.name}", values, path.replace(".", "/"), components)
    return list(by_option.values())


def _values(annotation: Any) -> tuple[str, ...]:
    """The values of a type in YAML: of bool, None and Literal. Empty for a type that has others too."""
    if annotation is bool:
        return ("true", "false")
    if annotation in (None, type(None)):
        return ("null",)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return tuple(map(str, arguments))
    if origin in (Union, UnionType):
        members = [_values(argument) for argument in arguments]
        return tuple(value for values in members for value in values) if all(members) else ()
    return ()

"""Hydra's groups, derived from the schema: a slot that takes a component is a group whose options are its kind's names.

Registering a component is all it takes: `model/norm=mine` then composes, completes and is listed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore

from components import registry
from components.registry import Component
from lab.composition import memo
from lab.composition.search_path import available, roots
from lab.training.experiment import Experiment


@cache
def slots() -> dict[str, str]:
    """Configuration path of every slot → its kind: {"model.heads": "heads", …, "optimizer": "optimizer"}."""
    return dict(_slots(Experiment, ""))


@cache
def optional() -> frozenset[str]:
    """The groups that an experiment need not choose from, as the schema has a default for them: {"recipe"}."""
    given = {option.name for option in registry.options(Experiment) if not option.required}
    return frozenset(given & slots().keys())


def _slots(cls: Any, prefix: str) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        annotation, path = _without_none(hints[field.name]), f"{prefix}{field.name}"
        if isinstance(annotation, type) and issubclass(annotation, Component):
            yield path, annotation.kind
        elif dataclasses.is_dataclass(annotation):
            yield from _slots(annotation, f"{path}.")


def _without_none(annotation: Any) -> Any:
    """The type of a slot that may be empty."""
    members = [member for member in get_args(annotation) if member is not type(None)]
    return members[0] if get_origin(annotation) in (Union, UnionType) and len(members) == 1 else annotation


def groups() -> dict[str, list[str]]:
    """Every group as Hydra names it → its options: registered components and YAML files."""
    return memo.cached("groups", _groups)


def _groups() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {path.replace(".", "/"): registry.names(kind) for path, kind in slots().items()}
    for root in roots("experiments"):
        for folder in sorted(path for path in root.rglob("*") if path.is_dir()):
            found.setdefault(str(folder.relative_to(root)), [])
    return {group: list(dict.fromkeys([*names, *available("experiments", group)])) for group, names in found.items()}


def store() -> None:
    """Put every registered component into Hydra's ConfigStore, with its defaults, under its slot's group."""
    config_store = ConfigStore.instance()
    for path, kind in slots().items():
        for name in registry.names(kind):
            defaults = {
                option.name: list(option.default) if isinstance(option.default, tuple) else option.default
                for option in registry.options(registry.lookup(kind, name))
                if not option.required
            }
            config_store.store(group=path.replace(".", "/"), name=name, node={"name": name, **defaults}, provider="lab")

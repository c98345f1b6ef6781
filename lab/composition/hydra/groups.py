"""Hydra's groups, derived from the schema. Each slot for a component is a group; its options are the registered names.

After a component is registered, `model/norm=mine` composes, completes and is listed without further code.
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
    """Configuration path → component kind, for every slot: {"model.heads": "heads", …, "optimizer": "optimizer"}."""
    return dict(_slots(Experiment, ""))


@cache
def optional() -> frozenset[str]:
    """The groups for which the schema has a default, so that an experiment may leave them out: {"recipe"}."""
    options_with_default = {option.name for option in registry.options(Experiment) if not option.required}
    return frozenset(options_with_default & slots().keys())


def _slots(cls: Any, prefix: str) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        annotation, path = _without_none(hints[field.name]), f"{prefix}{field.name}"
        if isinstance(annotation, type) and issubclass(annotation, Component):
            yield path, annotation.kind
        elif dataclasses.is_dataclass(annotation):
            yield from _slots(annotation, f"{path}.")


def _without_none(annotation: Any) -> Any:
    """The type of a slot, without the None of a slot that may be empty."""
    members = [member for member in get_args(annotation) if member is not type(None)]
    return members[0] if get_origin(annotation) in (Union, UnionType) and len(members) == 1 else annotation


def groups() -> dict[str, list[str]]:
    """Group, by Hydra's name → its options: registered components and YAML files."""
    return memo.cached("groups", _groups)


def _groups() -> dict[str, list[str]]:
    registered: dict[str, list[str]] = {path.replace(".", "/"): registry.names(kind) for path, kind in slots().items()}
    for root in roots("experiments"):
        for folder in sorted(path for path in root.rglob("*") if path.is_dir()):
            registered.setdefault(str(folder.relative_to(root)), [])
    return {
        group: list(dict.fromkeys([*names, *available("experiments", group)])) for group, names in registered.items()
    }


def store_components() -> None:
    """Add every registered component to Hydra's ConfigStore, with its defaults, under the group of its slot."""
    config_store = ConfigStore.instance()
    for path, kind in slots().items():
        for name in registry.names(kind):
            defaults = {
                option.name: list(option.default) if isinstance(option.default, tuple) else option.default
                for option in registry.options(registry.lookup(kind, name))
                if not option.required
            }
            config_store.store(group=path.replace(".", "/"), name=name, node={"name": name, **defaults}, provider="lab")

"""A typed experiment as plain data and back: what a run's config.yaml holds, so that nothing is composed again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

from components import registry
from components.registry import Component
from lab.composition import convert
from lab.errors import RequestError
from lab.training.experiment import Experiment


def to_plain(value: Any, *, results_only: bool = False) -> Any:
    """Dataclasses, components, tuples as mappings and lists; a component's mapping begins with its `name`.

    Args:
        results_only: leave out the fields that don't affect a run's result.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain: dict[str, Any] = {"name": value.name} if isinstance(value, Component) else {}
        for option in registry.options(type(value)):
            if option.affects_result or not results_only:
                plain[option.name] = to_plain(getattr(value, option.name), results_only=results_only)
        return plain
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, results_only=results_only) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item, results_only=results_only) for item in value]
    return value


def to_yaml(experiment: Experiment) -> str:
    """A run's config.yaml: every key resolved, defaults included."""
    return _dump(to_plain(experiment))


def _dump(plain: Any) -> str:
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))


def part_as_yaml(experiment: Experiment, path: str | None) -> str:
    """The configuration below a dotted path, such as `model.heads`, as YAML; all of it for None.

    Raises:
        RequestError: naming the nearest key.
    """
    part: Any = to_plain(experiment)
    for key in path.split(".") if path else []:
        if not isinstance(part, Mapping) or key not in part:
            known = part if isinstance(part, Mapping) else ()
            raise RequestError(f"--package {path}: no key is called '{key}'{registry.suggestion(key, known)}")
        part = part[key]
    return _dump(part)


def load_experiment(config: Mapping[str, Any]) -> Experiment:
    """The typed experiment of a frozen configuration. Nothing is filled in or dropped.

    Raises:
        RequestError: where the configuration isn't one that this version of the lab wrote.
    """
    try:
        experiment = convert.dataclass(Experiment, config, "")
    except convert.ConversionError as error:
        raise RequestError(f"config.yaml: {error.path}: {error.message}") from None
    assert isinstance(experiment, Experiment)
    return experiment


def components_of(experiment: Experiment) -> dict[str, Component]:
    """Every component that an experiment uses, by its configuration path."""
    found: dict[str, Component] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Component):
            found[path] = value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                walk(getattr(value, field.name), convert.join(path, field.name))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                walk(item, convert.join(path, str(key)))

    walk(experiment, "")
    return found

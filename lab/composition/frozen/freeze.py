"""Typed experiments as plain data and back. A run's config.yaml holds that data, so that nothing is composed again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, overload

import yaml

from components import registry
from components.registry import Component
from lab.composition import convert, memo
from lab.composition.frozen.older import in_todays_terms
from lab.composition.plain import Plain
from lab.refusals import RequestError
from lab.training.experiment import Experiment

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@overload
def to_plain(value: DataclassInstance | Component, *, results_only: bool = False) -> Plain: ...


@overload
def to_plain(value: object, *, results_only: bool = False) -> object: ...


def to_plain(value: object, *, results_only: bool = False) -> object:
    """Convert dataclasses and components to mappings, and tuples to lists. A component's mapping begins with `name`.

    An option that was added to a component later is left out at the default that leaves everything as before (see
    `option_metadata.absent_at`), and None is written as the value that it means where that was the default before
    (`option_metadata.none_means`), so that configurations and identities of earlier runs stay what they were.

    Args:
        results_only: leave out the fields that don't affect a run's result.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain: Plain = {"name": value.name} if isinstance(value, Component) else {}
        for option in registry.options(type(value)):
            item = getattr(value, option.name)
            if item is None:
                item = option.none_means
            if item != option.absent_at and (option.affects_result or not results_only):
                plain[option.name] = to_plain(item, results_only=results_only)
        return plain
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, results_only=results_only) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item, results_only=results_only) for item in value]
    return value


def to_yaml(experiment: Experiment) -> str:
    """A run's config.yaml: every key resolved, defaults included."""
    return _dump(to_plain(experiment))


# Both write the same text. The compiled one is ten times as fast, but not always installed.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _dump(plain: object) -> str:
    text = yaml.dump(plain, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return str(text)


def part_as_yaml(experiment: Experiment, path: str | None) -> str:
    """The configuration below a dotted path, such as `model.heads`, as YAML; None gives all of it.

    Raises:
        RequestError: there is no such key; with the nearest one.
    """
    part: object = to_plain(experiment)
    for key in path.split(".") if path else []:
        keys = tuple(part) if isinstance(part, Mapping) else ()
        if not isinstance(part, Mapping) or key not in part:
            problem = f"no key is called '{key}'"
            raise RequestError(problem, kind="unknown_key", part=f"--package {path}", given=key, expected=keys)
        part = part[key]
    return _dump(part)


def load_experiment(config: Mapping[str, object]) -> Experiment:
    """The typed experiment of a frozen configuration. Nothing is added or left out.

    Raises:
        RequestError: this version of the lab doesn't understand the configuration.
    """
    try:
        return convert.dataclass(Experiment, in_todays_terms(config))
    except RequestError as error:
        raise error.within(file="config.yaml") from None


def components_of(experiment: Experiment) -> dict[str, Component]:
    """Configuration path → component, for every component of an experiment.

    A component that another one names by an option has a path below that component.
    """
    components: dict[str, Component] = {}
    for name in (option.name for option in registry.options(Experiment)):
        part = getattr(experiment, name)
        # Runs that differ in one part share the objects of the others.
        components |= memo.cached(("components", name, memo.ById(part)), lambda: _components(part, name))  # noqa: B023
    return components


def _components(part: object, name: str) -> dict[str, Component]:
    return {path: component for path, component, _ in components_in(part, name)}


def components_in(value: object, path: str, implied: bool = False) -> Iterator[tuple[str, Component, bool]]:
    """(path, component, implied) of every component in the part of a configuration at `path`.

    An implied component isn't in the configuration: another component names it by an option, and it has its defaults.
    """
    if isinstance(value, Component):
        yield path, value, implied
        for option, used in value.uses().items():
            yield from components_in(used, convert.join_path(path, option), True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for name in (option.name for option in registry.options(type(value))):
            yield from components_in(getattr(value, name), convert.join_path(path, name), implied)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from components_in(item, convert.join_path(path, str(key)), implied)

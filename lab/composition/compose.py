"""Hydra composition of a named experiment with overrides, into one typed experiment.

Hydra does the composing: defaults lists, groups, interpolation, its override grammar. The lab checks every name and
type itself, so that a mistake gives one message with the file or override, the key, and the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from components import registry
from lab.composition import convert, extensions, memo
from lab.composition.check import check_kernel, check_read
from lab.composition.hydra import groups
from lab.composition.hydra.merge import Merged, merge
from lab.composition.hydra.origin import Origin, chooses
from lab.composition.hydra.overrides import Overrides, copied, one_line, parse
from lab.composition.hydra.swap import settle
from lab.composition.search_path import display, find
from lab.composition.unreadable import unreadable_experiment
from lab.refusals import RequestError
from lab.training.experiment import Experiment


@dataclass(frozen=True)
class Composition:
    """A composed experiment.

    Attributes:
        experiment: typed and checked.
        choices: the option chosen for each Hydra group: {"model": "gemma2_tiny", "model/heads": "gqa", …}.
        overrides: what was asked for on top of the experiment's file.
    """

    experiment: Experiment
    choices: Mapping[str, str]
    overrides: tuple[str, ...]


def compose(name: str, overrides: Sequence[str] = (), *, source: str = "") -> Composition:
    """Compose `experiments/<name>.yaml` with Hydra overrides.

    Args:
        source: where the overrides stand, for messages: "sweeps/x.yaml: arm 'mha'"; empty for the command line.
    Raises:
        RequestError: with everything that a user needs to mend the request.
    """
    with memo.scope():
        return _composed(name, tuple(overrides), source)


def _composed(name: str, overrides: tuple[str, ...], source: str) -> Composition:
    extensions.load()
    path = find("experiments", name)
    parsed = parse(overrides, source)
    try:
        merged = merge(path, _hydra_choices(path, parsed))
        raw = _with_values(merged, parsed)
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(f"{f'{source}: ' if source else ''}{display(path)}: {one_line(error)}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise unreadable_experiment(error) from None
    try:
        settled = settle(raw, merged.choices, parsed, merged.origin)
        experiment = convert.dataclass(Experiment, settled | {"name": name}, "")
        check_kernel(experiment)
        check_read(experiment, parsed)
    except convert.ConversionError as error:
        raise RequestError(_explain(error, raw, parsed, merged.origin)) from None
    defaults = {slot: getattr(experiment, slot).name for slot in groups.optional()}
    return Composition(experiment, defaults | dict(merged.choices), overrides)


def _with_values(merged: Merged, overrides: Overrides) -> dict[str, Any]:
    """The merged configuration, interpolations resolved, with the values of the overrides; the caller's to change."""
    if merged.plain is not None:
        raw: dict[str, Any] = copied(merged.plain)
        if overrides.patch(raw):
            return raw
    config = merged.config.copy()
    overrides.apply(config)
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return resolved  # type: ignore[return-value]


def _hydra_choices(path: Path, overrides: Overrides) -> tuple[str, ...]:
    """The overrides of groups as Hydra takes them: one that the experiment leaves to its default has to be added."""

    def added(text: str) -> bool:
        group = text.partition("=")[0]
        return group in groups.optional() and not chooses(path, group)

    return tuple(f"+{text}" if added(text) else text for text in overrides.choices)


def _explain(error: convert.ConversionError, raw: Mapping[str, Any], overrides: Overrides, origin: Origin) -> str:
    """A refusal with where the wrong value comes from, and the nearest path where a key stands elsewhere."""
    message = error.message
    if message.startswith("no such key"):
        last = error.path.rpartition(".")[2]
        alike = [path for path in valid_paths(raw) if path.rpartition(".")[2] == last]
        if alike:
            message = f"no such key; did you mean '{alike[0]}'?"
    where = overrides.setting(error.path)
    if where is None and message.startswith("is missing"):
        where = overrides.chosen(error.path.rpartition(".")[0])
    if where is None and error.path.startswith("model.kinds.") and origin.setting(error.path) is None:
        where = overrides.setting("model.pattern")  # which implied that layer kind
    return f"{where or origin.describe(error.path)}: {error.path}: {message}"


def valid_paths(raw: Mapping[str, Any]) -> list[str]:
    """Every path that this configuration could set, given the components that it chose."""
    paths: list[str] = []

    def walk(cls: Any, value: Any, prefix: str) -> None:
        for option in registry.options(cls):
            path, inner = f"{prefix}{option.name}", value.get(option.name) if isinstance(value, Mapping) else None
            kind = groups.slots().get(path)
            if kind is not None and isinstance(inner, Mapping) and inner.get("name") in registry.names(kind):
                walk(registry.lookup(kind, str(inner["name"])), inner, f"{path}.")
            elif hasattr(option.type, "__dataclass_fields__"):
                walk(option.type, inner, f"{path}.")
            else:
                paths.append(path)

    walk(Experiment, raw, "")
    return paths

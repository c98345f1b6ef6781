"""Compose a named experiment and overrides into one typed experiment.

Hydra handles defaults lists, groups, interpolation and the override grammar. The lab checks every name and type itself,
so that a mistake gives one message with the file or override, the key, and the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from components import registry
from lab.composition import convert, extensions, memo
from lab.composition.check import check_attention_overrides, check_kernel
from lab.composition.hydra import groups
from lab.composition.hydra.merge import Merged, merge
from lab.composition.hydra.origin import Origin, chooses
from lab.composition.hydra.overrides import Overrides, parse
from lab.composition.hydra.swap import apply_swaps
from lab.composition.plain import Plain, deep_copy
from lab.composition.search_path import display, find_config
from lab.composition.unreadable import unreadable_experiment
from lab.data.options import Data
from lab.refusals import Refusal, RequestError, Where, one_line
from lab.training.experiment import Experiment


@dataclass(frozen=True)
class Composition:
    """A composed experiment.

    Attributes:
        experiment: the typed and checked experiment.
        choices: Hydra group → chosen option: {"model": "gemma2_tiny", "model/heads": "gqa", …}.
        overrides: the overrides on top of the experiment's file.
        place: tells which override, or which line of which file, sets a configuration key.
    """

    experiment: Experiment
    choices: Mapping[str, str]
    overrides: tuple[str, ...]
    place: Callable[[str], Where] = field(default=lambda key: Where(), compare=False, repr=False)


def compose(name: str, overrides: Sequence[str] = (), *, source: Where | str = "") -> Composition:
    """Compose `experiments/<name>.yaml` with Hydra overrides.

    Args:
        source: the place of the overrides, such as an arm of a sweep file; empty for the command line.
    Raises:
        RequestError: with the file or override, the key, what was expected, and the nearest valid name.
    """
    where = Where(part=source or None) if isinstance(source, str) else source
    with memo.scope():
        return _compose(name, tuple(overrides), where)


def _compose(name: str, overrides: tuple[str, ...], where: Where) -> Composition:
    extensions.load()
    path = find_config("experiments", name)
    parsed = parse(overrides, where)
    merged, raw = _merged(path, parsed)
    try:
        swapped = apply_swaps(raw, merged.choices, parsed, merged.origin)
        experiment = convert.dataclass(Experiment, swapped | {"name": name})
        check_kernel(experiment)
        check_attention_overrides(experiment, parsed)
    except RequestError as error:
        raise RequestError(_located(error.refusal, raw, parsed, merged.origin)) from None
    defaults = {slot: getattr(experiment, slot).name for slot in groups.optional()}
    place = partial(_place, overrides=parsed, origin=merged.origin)
    return Composition(experiment, defaults | dict(merged.choices), overrides, place)


def compose_data(name: str, overrides: Sequence[str] = ()) -> Data:
    """Compose an experiment's data alone, whatever its model is.

    Raises:
        RequestError: as `compose`, of what concerns the data; or an override changes nothing of the data.
    """
    with memo.scope():
        extensions.load()
        path, parsed = find_config("experiments", name), parse(overrides)
        data = _data(path, parsed)
        texts = {choice.text: choice.key for choice in parsed.choices} | {
            value.text: value.key for value in parsed.values
        }
        for text, key in texts.items():
            if key.split("/")[0].split(".")[0] == "data":
                continue
            # The data may refer to another key: `data: {seed: ${seed}}`.
            if data == _data(path, parse([each for each in overrides if each != text])):
                raise _without_effect(key, parsed.place(text))
        return data


def _data(path: Path, overrides: Overrides) -> Data:
    merged, raw = _merged(path, overrides)
    try:
        return convert.dataclass(Data, apply_swaps(raw, merged.choices, overrides, merged.origin)["data"], "data")
    except RequestError as error:
        raise RequestError(_located(error.refusal, raw, overrides, merged.origin)) from None


def _without_effect(key: str, place: Where) -> RequestError:
    slot = f"data.{key}"
    is_of_data = key.split(".")[0] in {option.name for option in registry.options(Data)}
    nearest = (slot.replace(".", "/") if slot in groups.slots() else slot) if is_of_data else None
    return RequestError("changes nothing of the data", kind="unknown_key", where=place, given=key, nearest=nearest)


def _merged(path: Path, overrides: Overrides) -> tuple[Merged, Plain]:
    """What Hydra composes, and the plain configuration with the values of the overrides."""
    try:
        merged = merge(path, _hydra_choices(path, overrides))
        return merged, _with_values(merged, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(one_line(error), file=display(path)).within(overrides.where) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise unreadable_experiment(error) from None


def _with_values(merged: Merged, overrides: Overrides) -> Plain:
    """A new configuration: the merged one with the values of the overrides, and with interpolations resolved."""
    if merged.plain is not None:
        raw = deep_copy(merged.plain)
        if overrides.patch(raw):
            return raw
    config = merged.config.copy()
    overrides.apply(config)
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _hydra_choices(path: Path, overrides: Overrides) -> tuple[str, ...]:
    """The overrides of groups as Hydra expects them, with `+` for a group that the experiment leaves at its default."""
    texts = []
    for choice in overrides.choices:
        is_bare = choice.text.startswith(f"{choice.key}=")
        is_added = is_bare and choice.key in groups.optional() and not chooses(path, choice.key)
        texts.append(f"+{choice.text}" if is_added else choice.text)
    return tuple(texts)


def _located(refusal: Refusal, raw: Plain, overrides: Overrides, origin: Origin) -> Refusal:
    """The refusal with the origin of the wrong value, and with the nearest path if the key exists elsewhere."""
    path = refusal.where.key or ""
    parent, _, last = path.rpartition(".")
    if refusal.kind == "unknown_key":
        same_option = [valid for valid in valid_paths(raw) if valid.rpartition(".")[2] == last]
        if same_option:
            refusal = replace(refusal, expected=None, nearest=same_option[0])
    if refusal.kind == "missing" and overrides.setting(path) is None and (choice := overrides.choice(parent)):
        return refusal.within(overrides.place(choice))
    return refusal.within(_place(path, overrides, origin))


def _place(path: str, overrides: Overrides, origin: Origin) -> Where:
    """The override that sets a key, or the file and line."""
    override = overrides.setting(path)
    if override is None and path.startswith("model.kinds.") and origin.setting(path) is None:
        override = overrides.setting("model.pattern")  # the pattern implied this layer kind
    return overrides.place(override) if override else origin.place(path)


def valid_paths(raw: Plain) -> list[str]:
    """Every path that a configuration with these components can set."""
    paths: list[str] = []

    def walk(cls: type, value: object, prefix: str) -> None:
        for option in registry.options(cls):
            path, inner = f"{prefix}{option.name}", value.get(option.name) if isinstance(value, Mapping) else None
            kind = groups.slots().get(path)
            if kind is not None and isinstance(inner, Mapping) and inner.get("name") in registry.names(kind):
                walk(registry.lookup(kind, str(inner["name"])), inner, f"{path}.")
            elif is_dataclass(option.type):
                walk(option.type, inner, f"{path}.")  # type: ignore[arg-type]
            else:
                paths.append(path)

    walk(Experiment, raw, "")
    return paths

"""Hydra composition of a named experiment with overrides, into one typed experiment.

Hydra does the composing: defaults lists, groups, interpolation, its override grammar. The lab checks every name and
type itself, so that a mistake gives one message with the file or override, the key, and the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path

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
from lab.composition.hydra.overrides import Overrides, parse
from lab.composition.hydra.swap import settle
from lab.composition.plain import Plain, copied
from lab.composition.search_path import display, find
from lab.composition.unreadable import unreadable_experiment
from lab.refusals import Refusal, RequestError, Where, one_line
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


def compose(name: str, overrides: Sequence[str] = (), *, source: Where | str = "") -> Composition:
    """Compose `experiments/<name>.yaml` with Hydra overrides.

    Args:
        source: where the overrides stand: the arm of a sweep's file; nowhere for the command line.
    Raises:
        RequestError: with everything that a user needs to mend the request.
    """
    where = Where(part=source or None) if isinstance(source, str) else source
    with memo.scope():
        return _compose(name, tuple(overrides), where)


def _compose(name: str, overrides: tuple[str, ...], where: Where) -> Composition:
    extensions.load()
    path = find("experiments", name)
    parsed = parse(overrides, where)
    try:
        merged = merge(path, _hydra_choices(path, parsed))
        raw = _with_values(merged, parsed)
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(one_line(error), file=display(path)).within(where) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise unreadable_experiment(error) from None
    try:
        settled = settle(raw, merged.choices, parsed, merged.origin)
        experiment = convert.dataclass(Experiment, settled | {"name": name})
        check_kernel(experiment)
        check_read(experiment, parsed)
    except RequestError as error:
        raise RequestError(_located(error.refusal, raw, parsed, merged.origin)) from None
    defaults = {slot: getattr(experiment, slot).name for slot in groups.optional()}
    return Composition(experiment, defaults | dict(merged.choices), overrides)


def _with_values(merged: Merged, overrides: Overrides) -> Plain:
    """The merged configuration, interpolations resolved, with the values of the overrides; the caller's to change."""
    if merged.plain is not None:
        raw = copied(merged.plain)
        if overrides.patch(raw):
            return raw
    config = merged.config.copy()
    overrides.apply(config)
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _hydra_choices(path: Path, overrides: Overrides) -> tuple[str, ...]:
    """The overrides of groups as Hydra takes them: one that the experiment leaves to its default has to be added."""
    texts = []
    for choice in overrides.choices:
        is_bare = choice.text.startswith(f"{choice.key}=")
        is_added = is_bare and choice.key in groups.optional() and not chooses(path, choice.key)
        texts.append(f"+{choice.text}" if is_added else choice.text)
    return tuple(texts)


def _located(refusal: Refusal, raw: Plain, overrides: Overrides, origin: Origin) -> Refusal:
    """A refusal with where the wrong value comes from, and the nearest path where a key stands elsewhere."""
    path = refusal.where.key or ""
    parent, _, last = path.rpartition(".")
    if refusal.kind == "unknown_key":
        alike = [valid for valid in valid_paths(raw) if valid.rpartition(".")[2] == last]
        if alike:
            refusal = replace(refusal, expected=None, nearest=alike[0])
    override = overrides.setting(path)
    if override is None and refusal.kind == "missing":
        override = overrides.choice(parent)
    if override is None and path.startswith("model.kinds.") and origin.setting(path) is None:
        override = overrides.setting("model.pattern")  # which implied that layer kind
    return refusal.within(overrides.place(override) if override else origin.place(path))


def valid_paths(raw: Plain) -> list[str]:
    """Every path that this configuration could set, given the components that it chose."""
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

"""A run's identity: the whole resolved configuration, less what doesn't affect its result, plus component versions.

Defaults are in it, so a changed default never reuses an old run; the order of keys in a file is not. A component that
another one names by an option (the expert of a mixture) is in it too, with its version and its own defaults.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from components import registry
from lab.composition import memo
from lab.composition.frozen.freeze import components_in, to_plain
from lab.training.experiment import Experiment

FORMAT = 1
"""Raised when the same configuration begins to mean something else as a whole."""


def component_versions(experiment: Experiment) -> dict[str, int]:
    """Versions of the components in use: {"heads/gqa": 1, …}."""
    return _versions(_parts(experiment))


def identity(experiment: Experiment) -> str:
    """SHA-256 of an experiment's meaning, as 64 hexadecimal digits."""
    config: dict[str, str] = {}
    implied: dict[str, str] = {}
    parts = _parts(experiment)
    for name, part in parts.items():
        config[name] = part.text
        implied |= part.implied
    meaning = {
        "format": _json(FORMAT),
        "config": _object(config),
        "components": _json(_versions(parts)),
        **({"implied": _object(implied)} if implied else {}),
    }
    return hashlib.sha256(_object(meaning).encode()).hexdigest()


@dataclass(frozen=True)
class _Part:
    """What a part of an experiment (its model, its data, …) adds to the identity.

    Attributes:
        text: the part as canonical JSON.
        versions: ("heads/gqa", 1), … of the components in it.
        implied: path → canonical JSON of components that no configuration holds.
    """

    text: str
    versions: tuple[tuple[str, int], ...]
    implied: dict[str, str]


def _parts(experiment: Experiment) -> dict[str, _Part]:
    options = [option for option in registry.options(Experiment) if option.affects_result]
    return {option.name: _part(option.name, getattr(experiment, option.name)) for option in options}


def _versions(parts: Mapping[str, _Part]) -> dict[str, int]:
    return dict(sorted(pair for part in parts.values() for pair in part.versions))


def _part(name: str, value: object) -> _Part:
    # Runs that differ in one part share the others, as the same objects.
    return memo.cached(("part", name, memo.ById(value)), lambda: _compute_part(name, value))


def _compute_part(name: str, value: object) -> _Part:
    components = list(components_in(value, name))
    return _Part(
        text=_json(to_plain(value, results_only=True)),
        versions=tuple((f"{component.kind}/{component.name}", component.version) for _, component, _ in components),
        implied={path: _json(to_plain(used, results_only=True)) for path, used, implied in components if implied},
    )


def _json(plain: object) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _object(members: dict[str, str]) -> str:
    """Canonical JSON of an object whose values are canonical JSON already."""
    return "{" + ",".join(f"{_json(key)}:{members[key]}" for key in sorted(members)) + "}"

"""A run's identity: a hash of the resolved configuration and the versions of its components.

Fields that don't affect the result are left out. Defaults are included, so that a run isn't reused after a default has
changed. The order of keys in a file doesn't matter. A component that another one names by an option, such as the expert
of a mixture, is included with its version and its own defaults.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from components import registry
from lab.composition import memo
from lab.composition.frozen.freeze import components_in, to_plain
from lab.data.synthetic.tasks import Task
from lab.data.text_digest import text_digest
from lab.training.experiment import Experiment

FORMAT = 1
"""The version of this hash. Increase it if the meaning of all configurations changes."""


def component_versions(experiment: Experiment) -> dict[str, int]:
    """`kind/name` → version of the components in use: {"heads/gqa": 1, …}."""
    return _versions(_parts(experiment))


def current_text_digest(experiment: Experiment) -> str | None:
    """The digest of the text that an experiment reads, as it is now; None for a synthetic task.

    Raises:
        DataError: the corpus or the tokenizer is missing, or can't be read.
    """
    key = _json(to_plain(experiment.data))
    return memo.cached(("text", key), lambda: text_digest(experiment.data))


def reads_text(experiment: Experiment) -> bool:
    """Whether an experiment reads a text; a synthetic task draws its data."""
    return not isinstance(experiment.data.corpus, Task)


def identity_with_text(configuration: str, text: str | None) -> str:
    """The identity of a run, as 64 hexadecimal digits.

    Args:
        configuration: the identity of its configuration, from `identity`.
        text: the digest of its text, from `current_text_digest`; None for a synthetic task, and for a run by a
            version of the lab whose identities had no text.
    """
    if text is None:
        return configuration
    return hashlib.sha256(_json({"configuration": configuration, "text": text}).encode()).hexdigest()


def identity(experiment: Experiment) -> str:
    """The identity of an experiment's configuration: a SHA-256 as 64 hexadecimal digits."""
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
    """What one part of an experiment, such as its model or its data, adds to the identity.

    Attributes:
        text: the part as canonical JSON.
        versions: pairs such as ("heads/gqa", 1) for the components in it.
        implied: path → canonical JSON, for components that aren't in the configuration itself.
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
    # Runs that differ in one part share the objects of the others.
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

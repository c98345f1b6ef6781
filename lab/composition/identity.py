"""A run's identity: the whole resolved configuration, less what doesn't affect its result, plus component versions.

Defaults are in it, so a changed default never reuses an old run; the order of keys in a file is not.
"""

from __future__ import annotations

import hashlib
import json

from lab.composition.freeze import components_of, to_plain
from lab.training.experiment import Experiment

FORMAT = 1
"""Raised when the same configuration begins to mean something else as a whole."""


def component_versions(experiment: Experiment) -> dict[str, int]:
    """Versions of the components in use: {"heads/gqa": 1, …}."""
    used = components_of(experiment).values()
    return dict(sorted((f"{component.kind}/{component.name}", component.version) for component in used))


def identity(experiment: Experiment) -> str:
    """SHA-256 of an experiment's meaning, as 64 hexadecimal digits."""
    meaning = {
        "format": FORMAT,
        "config": to_plain(experiment, results_only=True),
        "components": component_versions(experiment),
    }
    canonical = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()

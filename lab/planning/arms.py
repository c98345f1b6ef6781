"""The arms of a sweep: their overrides in Hydra's grammar, and names that are short, unique and safe as folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from lab.planning.sweep import Sweep, SweepFile

_BRACKETS = re.compile(r"[\[\]{}'\"]")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.=,+\-]+")


@dataclass(frozen=True)
class Arm:
    """One cell of a sweep, seeds aside: its name and what it sets.

    Attributes:
        settings: on top of the experiment and the sweep's `overrides`: {"model/heads": "mha"}.
        where: where it is written, for messages: "sweeps/x.yaml:7: arm 'mha'".
    """

    name: str
    settings: Mapping[str, Any]
    where: str = ""

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings as Hydra overrides."""
        return tuple(f"{key}={hydra_value(value)}" for key, value in self.settings.items())


def arms_of(sweep: Sweep, file: SweepFile) -> list[Arm]:
    """The arms in the order of the file; a grid's last axis varies fastest."""
    if sweep.arms:
        return [Arm(name, settings, f"{file}: arm '{name}'") for name, settings in sweep.arms.items()]
    cells = [dict(zip(sweep.grid, values, strict=True)) for values in product(*sweep.grid.values())]
    return [Arm(arm_name(cell), cell, f"{file}: arm '{arm_name(cell)}'") for cell in cells]


def hydra_value(value: Any) -> str:
    """A YAML value as Hydra's override grammar writes it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case Mapping():
            return "{" + ",".join(f"{key}:{hydra_value(item)}" for key, item in value.items()) + "}"
        case str():
            return value
        case Sequence():
            return "[" + ",".join(hydra_value(item) for item in value) + "]"
    return str(value)


def arm_name(settings: Mapping[str, Any]) -> str:
    """A folder name from what an arm sets: `heads=mha,span=global`."""
    short = short_keys(settings)
    parts = (f"{short[key]}={hydra_value(value)}" for key, value in settings.items())
    return _UNSAFE.sub("-", _BRACKETS.sub("", ",".join(parts))).strip("-.") or "base"


def key_parts(key: str) -> list[str]:
    """The parts of a configuration path or a group: `model/heads` and `model.heads` alike."""
    return re.split(r"[./]", key)


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Each key's last part, or as many of its last parts as tell it from the others."""
    keys = list(keys)
    parts = {key: key_parts(key) for key in keys}
    short = {}
    for key in keys:
        for n in range(1, len(parts[key]) + 1):
            if sum(other[-n:] == parts[key][-n:] for other in parts.values()) == 1:
                break
        short[key] = ".".join(parts[key][-n:])
    return short

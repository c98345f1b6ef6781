"""An arm: one cell of a sweep, seeds aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.planning.language.hydra_values import hydra_value
from lab.planning.language.sweep import NeededRun
from lab.refusals import Where


@dataclass(frozen=True)
class Arm:
    """One cell of a sweep, seeds aside: its name and what it sets.

    Attributes:
        settings: on top of the experiment and the sweep's `overrides`: {"model/heads": "mha"}.
        where: where it is written: "sweeps/x.yaml:7: arm 'mha'".
        named: the arm of the file that it is a cell of; empty where only axes are written.
        cell: axis → its value, for the axes that apply to it.
        places: key of the settings → the keys of the file below which it is written.
        needs: configuration path → the run that it consumes there.
        equal_flops: the arm whose total FLOPs it is to have.
    """

    name: str
    settings: Mapping[str, object]
    where: Where = field(default_factory=Where)
    named: str = ""
    cell: Mapping[str, object] = field(default_factory=dict)
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: Mapping[str, NeededRun] = field(default_factory=dict)
    equal_flops: str | None = None

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings as Hydra overrides."""
        return tuple(f"{key}={hydra_value(value)}" for key, value in self.settings.items())

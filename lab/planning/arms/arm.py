"""An arm: one cell of a sweep, without its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.planning.language.hydra_values import hydra_value
from lab.planning.language.sweep import NeededRun
from lab.refusals import Where


@dataclass(frozen=True)
class Arm:
    """One cell of a sweep, without its seeds: its name and what it sets.

    Attributes:
        settings: what the arm sets on top of the experiment and the sweep's `overrides`: {"model/heads": "mha"}.
        where: its place in the file: "sweeps/x.yaml:7: arm 'mha'".
        named: the named arm of the file to which this cell belongs; empty if the sweep has axes only.
        cell: axis → value, for the axes that apply to this arm.
        places: key of `settings` → the keys of the file that lead to it.
        needs: configuration path → the run that the arm uses there.
        equal_flops: the arm whose total FLOPs this arm is given.
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

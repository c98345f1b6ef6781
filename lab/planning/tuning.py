"""Axes of which each arm picks its own best: which runs tune, which report, and which value was picked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.planning.sweep import Sweep, SweepFile


@dataclass(frozen=True)
class Cell:
    """One combination of the tuned axes' values; the empty one where nothing is tuned.

    Attributes:
        name: short and safe as part of a folder: `lr=0.001`.
    """

    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def cells(sweep: Sweep, file: SweepFile) -> list[Cell]:
    """The tuned combinations, in the order of the file; the last axis varies fastest."""
    return [Cell()]


def tuning_seeds(sweep: Sweep, file: SweepFile) -> tuple[int, ...]:
    """The seeds on which the tuned axes are selected; none of them is reported."""
    return ()

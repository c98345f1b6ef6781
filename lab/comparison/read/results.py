"""What a sweep came to: its arms, their seeds, and what each run measured and cost.

Only a finished run gives a value to an average. Every other one is kept with its state: a diverged seed is a result, a
missing one is a hole, and both are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.planning.solve.selection import Selection
from lab.records import RunFolder

MISSING = "missing"

COSTS = ("parameters", "flops_per_token", "kv_bytes_per_token")  # known from the configuration alone
BUDGET = ("tokens", "total_flops")  # known from a plan


@dataclass(frozen=True)
class Run:
    """An arm with a seed, and what it came to.

    Attributes:
        folder: where it stands; None for a planned run without a folder.
        status: a status of lab.records, or `missing`.
        reason: one line for a person, where the status has one.
        metrics: name → final value, from the summary; empty unless finished or diverged. May hold NaN.
        costs: name → value, measured by the run (`tokens_per_second`, `seconds`, …).
    """

    arm: str
    seed: int
    identity: str
    status: str
    folder: RunFolder | None = None
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.status == "finished"


@dataclass(frozen=True)
class Arm:
    """One cell of a sweep with its runs.

    Attributes:
        axes: swept axis → value; the same axes in every arm of a sweep.
        runs: by seed, ascending; every planned seed is there. Where the sweep tunes, those of what the arm picked.
        costs: what is known from the configuration: `parameters`, `flops_per_token`, `kv_bytes_per_token`, and from a
            plan the budget, `tokens` and `total_flops`.
        selection: what the arm picked of the tuned axes; None where nothing is tuned.
    """

    name: str
    axes: dict[str, Any]
    runs: dict[int, Run]
    costs: dict[str, float]
    selection: Selection | None = None

    @property
    def statuses(self) -> dict[str, int]:
        """How many runs have each status, in order of first appearance."""
        return dict(Counter(run.status for run in self.runs.values()))

    @property
    def picked(self) -> dict[str, Any]:
        """Tuned axis → the value that the arm picked; empty before."""
        return dict(self.selection.picked.settings) if self.selection and self.selection.picked else {}

    def values(self, metric: str) -> dict[int, float]:
        """Seed → value, over the finished runs that measured it. A value may be NaN."""
        return {seed: run.metrics[metric] for seed, run in self.runs.items() if run.finished and metric in run.metrics}

    def mean_cost(self, name: str) -> float | None:
        """Mean over the finished runs of a measured cost."""
        found = [run.costs[name] for run in self.runs.values() if run.finished and name in run.costs]
        return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class Sweep:
    """A sweep's arms in their order, and what its plan says about it (without a plan, its newest run).

    Attributes:
        baseline: name of the arm that the others are compared with.
        match: what was held equal over the arms.
        tolerance: largest difference from the baseline that counts as equal, as a fraction of it.
        equivalence: largest difference in the first metric that is of no consequence, in its unit; None if none is.
        left_out: runs that stand there but aren't counted: of another plan, an older one of the same arm and seed, or
            of tuned values that the arm didn't pick.
        tuning: runs that are there to pick an arm's tuned values by; they are in no number of an arm.
        broken: folders that can't be read, each with what is wrong.
    """

    name: str
    question: str | None
    baseline: str
    metrics: tuple[str, ...]
    match: str | None
    arms: dict[str, Arm]
    tolerance: float = 0.005
    equivalence: float | None = None
    left_out: tuple[Run, ...] = ()
    tuning: tuple[Run, ...] = ()
    broken: tuple[tuple[Path, str], ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """The swept axes, in the order in which the arms name them."""
        return tuple(dict.fromkeys(axis for arm in self.arms.values() for axis in arm.axes))

    @property
    def tuned(self) -> tuple[str, ...]:
        """The tuned axes."""
        cells = [arm.selection.cells[0] for arm in self.arms.values() if arm.selection and arm.selection.cells]
        return tuple(dict.fromkeys(axis for cell in cells for axis in cell.settings))

    def runs(self) -> Iterator[Run]:
        """Every counted run, arm by arm, seed by seed."""
        for arm in self.arms.values():
            yield from arm.runs.values()

"""A sweep's results as data: its arms, their seeds, and what each run measured and cost.

Only finished runs give values to an average. Every other run is kept with its status: a seed that diverged is a result,
a seed that is missing is a hole, and both are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.planning.solve.selection import Selection
from lab.records import RunFolder

MISSING = "missing"

COSTS = ("parameters", "flops_per_token", "kv_bytes_per_token")  # known from the configuration alone
BUDGET = ("tokens", "total_flops")  # known from a plan


@dataclass(frozen=True)
class RunResult:
    """An arm with a seed, and its result.

    Attributes:
        folder: None for a planned run without a folder.
        status: a status of lab.records, or `missing`.
        reason: why it has this status, in one line; None if nothing is recorded.
        metrics: name → final value, from the summary; empty unless finished or diverged. May hold NaN.
        costs: name → value, measured by the run (`tokens_per_second`, `seconds`, …).
    """

    arm: str
    seed: int
    identity: str
    status: str
    folder: RunFolder | None = None
    reason: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.status == "finished"


@dataclass(frozen=True)
class ArmResults:
    """One arm of a sweep with its runs.

    Attributes:
        axes: swept axis → value; every arm of a sweep has the same axes.
        runs: by seed, ascending; every planned seed has one. If the sweep tunes, they are runs of the picked values.
        costs: what is known from the configuration (`COSTS`), and from a plan the `BUDGET`.
        selection: what the arm picked of the tuned axes; None if nothing is tuned.
    """

    name: str
    axes: Mapping[str, object]
    runs: Mapping[int, RunResult]
    costs: Mapping[str, float]
    selection: Selection | None = None

    @property
    def statuses(self) -> dict[str, int]:
        """How many runs have each status, in order of first appearance."""
        return dict(Counter(run.status for run in self.runs.values()))

    @property
    def finished(self) -> int:
        """How many runs have finished."""
        return sum(run.finished for run in self.runs.values())

    @property
    def picked(self) -> dict[str, object]:
        """Tuned axis → the value that the arm picked; empty before it has."""
        return dict(self.selection.picked.settings) if self.selection and self.selection.picked else {}

    @property
    def settings(self) -> dict[str, object]:
        """The arm's values of the swept and of the tuned axes."""
        return {**self.axes, **self.picked}

    def values(self, metric: str) -> dict[int, float]:
        """Seed → value, for the finished runs that measured the metric. A value may be NaN."""
        return {seed: run.metrics[metric] for seed, run in self.runs.items() if run.finished and metric in run.metrics}

    def mean_cost(self, name: str) -> float | None:
        """The mean of a measured cost over the finished runs."""
        costs = [run.costs[name] for run in self.runs.values() if run.finished and name in run.costs]
        return sum(costs) / len(costs) if costs else None

    def tokens(self, seed: int) -> float | None:
        """How many tokens a run was trained on, as planned or else as it measured; None if neither is known."""
        return self.costs.get("tokens", self.runs[seed].costs.get("tokens"))


@dataclass(frozen=True)
class SweepResults:
    """A sweep's arms in their order, with the labels of its plan or, without a plan, of its newest run.

    Attributes:
        baseline: the name of the arm that the others are compared with.
        match: what is held equal over the arms.
        tolerance: the largest difference from the baseline that counts as equal, as a fraction.
        equivalence: the largest negligible difference in the first metric, in its unit; None if none is declared.
        left_out: runs that are there but don't count: runs of another plan, runs that a newer one of the same arm and
            seed replaces, and runs of tuned values that the arm didn't pick.
        tuning: runs that an arm's tuned values are picked by. No number of an arm includes them.
        broken: folders that can't be read, each with its problem.
    """

    name: str
    question: str | None
    baseline: str
    metrics: tuple[str, ...]
    match: str | None
    arms: dict[str, ArmResults]
    tolerance: float = 0.005
    equivalence: float | None = None
    left_out: tuple[RunResult, ...] = ()
    tuning: tuple[RunResult, ...] = ()
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

    def runs(self) -> Iterator[RunResult]:
        """Every run that counts, arm by arm, seed by seed."""
        for arm in self.arms.values():
            yield from arm.runs.values()

"""A sweep's results as data: its arms, their seeds, and what each run measured and cost.

Only finished runs enter an average. All other runs stay in the data with their status, so that tables and reports show
seeds that diverged or are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.planning.solve.selection import Selection
from lab.records import RunFolder, RunRecord, Summary

MISSING = "missing"

COSTS = ("parameters", "flops_per_token", "kv_bytes_per_token")  # computed from the configuration alone
BUDGET = ("tokens", "total_flops")  # recorded in a plan


@dataclass(frozen=True)
class RunResult:
    """The result of one run: an arm with a seed.

    Attributes:
        identity: the run's identity; empty for a seed that has no run.
        status: a status of lab.records, or `missing`.
        folder: None for a planned run without a folder.
        reason: why it has this status, in one line; None if no reason is recorded.
        metrics: name → final value, from the summary; empty unless finished or diverged. Values may be NaN.
        costs: name → value, as the run measured it (`tokens_per_second`, `seconds`, …).
        record: its run.json; None without a folder.
        summary: its summary; None until the run has ended.
    """

    arm: str
    seed: int
    identity: str
    status: str
    folder: RunFolder | None = None
    reason: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    record: RunRecord | None = field(default=None, repr=False)
    summary: Summary | None = field(default=None, repr=False)

    @property
    def finished(self) -> bool:
        return self.status == "finished"


@dataclass(frozen=True)
class ArmResults:
    """One arm of a sweep with its runs.

    Attributes:
        axes: swept axis → value; every arm of a sweep has the same axes.
        runs: by seed, ascending, one for every planned seed. If the sweep tunes, these are runs of the picked values.
        costs: name → value: the `COSTS` that follow from the configuration and, with a plan, the `BUDGET`.
        selection: the values that the arm picked on the tuned axes; None if nothing is tuned.
    """

    name: str
    axes: Mapping[str, object]
    runs: Mapping[int, RunResult]
    costs: Mapping[str, float]
    selection: Selection | None = None

    @property
    def statuses(self) -> dict[str, int]:
        """Status → number of runs, in order of first appearance."""
        return dict(Counter(run.status for run in self.runs.values()))

    @property
    def finished(self) -> int:
        """The number of finished runs."""
        return sum(run.finished for run in self.runs.values())

    @property
    def picked(self) -> dict[str, object]:
        """Tuned axis → the value that the arm picked; empty before a value is picked."""
        return dict(self.selection.picked.settings) if self.selection and self.selection.picked else {}

    @property
    def settings(self) -> dict[str, object]:
        """Axis → the arm's value, for the swept and the tuned axes."""
        return {**self.axes, **self.picked}

    def values(self, metric: str) -> dict[int, float]:
        """Seed → value, for the finished runs that measured the metric. Values may be NaN."""
        return {seed: run.metrics[metric] for seed, run in self.runs.items() if run.finished and metric in run.metrics}

    def mean_cost(self, name: str) -> float | None:
        """The mean of a measured cost over the finished runs; None if no finished run has it."""
        costs = [run.costs[name] for run in self.runs.values() if run.finished and name in run.costs]
        return sum(costs) / len(costs) if costs else None

    def tokens(self, seed: int) -> float | None:
        """The number of tokens that a run is trained on: as planned, else as measured; None if neither is known."""
        return self.costs.get("tokens", self.runs[seed].costs.get("tokens"))


@dataclass(frozen=True)
class SweepResults:
    """A sweep's arms in their order, with the labels of its plan or, without a plan, of its newest run.

    Attributes:
        baseline: the name of the arm that the others are compared with.
        match: what is held equal over the arms: params, flops, kv, tokens or none; None if not declared.
        tolerance: the largest difference from the baseline that counts as equal, as a fraction.
        equivalence: the largest negligible difference, in the unit of `equivalence_metric`; None if none is declared.
        equivalence_metric: the metric that `equivalence` is about: the first that the sweep declares.
        left_out: runs that have a folder but don't count: runs of another plan, runs replaced by a newer run of the
            same arm and seed, and runs of tuned values that the arm didn't pick.
        tuning: the runs by which arms pick their tuned values. No number of an arm includes them.
        broken: (path, problem) of each folder that can't be read.
    """

    name: str
    question: str | None
    baseline: str
    metrics: tuple[str, ...]
    match: str | None
    arms: dict[str, ArmResults]
    tolerance: float = 0.005
    equivalence: float | None = None
    equivalence_metric: str | None = None
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

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of the metrics that some run has measured, in alphabetical order."""
        return tuple(sorted({metric for run in self.runs() for metric in run.metrics}))

    def runs(self) -> Iterator[RunResult]:
        """Every run of every arm, by seed."""
        for arm in self.arms.values():
            yield from arm.runs.values()

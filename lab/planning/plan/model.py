"""What a plan consists of: each run with everything decided, and all runs of a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lab.accounting.costs import Costs
from lab.code_version import current
from lab.composition.frozen.freeze import to_yaml
from lab.composition.frozen.identity import component_versions
from lab.planning.plan.workload import workload_of
from lab.planning.solve.matching import Matching
from lab.planning.solve.selection import Cell
from lab.records import (
    Code,
    Extensions,
    Need,
    PlanRecord,
    PlanRow,
    Role,
    RunRecord,
    SweepLabels,
    Workload,
)
from lab.training.experiment import Experiment


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed, everything decided.

    Attributes:
        sweep: as everything down to `match`: what the run's own folder says of the question that it belongs to.
        order: the arm's place in the sweep.
        axes: value of every swept axis; None where the arm has no such option.
        cell: the values of the tuned axes; empty where nothing is tuned.
        role: whether the run reports its arm's result, or only helps to select the arm's tuned values. Where the sweep
            tunes, a reporting run stands in the plan for each cell, and those of the selected cell are run.
        needs: runs whose checkpoints it consumes.
        overrides: what reproduces it: `lab train EXPERIMENT overrides…`.
        code: what it was planned with, and is to be run with.
        files: what its folder holds besides: the user's own components, as they were when the plan was made.
        extensions: where components come from that aren't the lab's; empty if all are.
        config_yaml: the frozen configuration that a worker reads.
    """

    sweep: str
    arm: str
    seed: int
    order: int
    axes: Mapping[str, Any]
    identity: str
    experiment: Experiment
    overrides: tuple[str, ...]
    costs: Costs
    question: str | None
    baseline: str
    metrics: tuple[str, ...]
    match: str
    cell: Cell = field(default_factory=Cell)
    role: Role = "report"
    needs: tuple[Need, ...] = ()
    code: Code = field(default_factory=current)
    files: Mapping[str, bytes] = field(default_factory=dict)
    extensions: Extensions = field(default_factory=Extensions)

    @property
    def folder_name(self) -> str:
        """The run's folder below the root."""
        arm = f"{self.arm},{self.cell.name}" if self.cell.name else self.arm
        return f"{self.sweep}/{arm}/seed-{self.seed}"

    @property
    def config_yaml(self) -> str:
        return to_yaml(self.experiment)

    @property
    def tokens(self) -> int:
        """Tokens that it trains on, whole steps."""
        return self.experiment.train.steps * self.experiment.train.tokens_per_step

    @property
    def total_flops(self) -> float:
        """FLOPs of the whole training, those of the forward passes of runs that it learns from included."""
        return (self.costs.flops_per_token + sum(need.flops_per_token for need in self.needs)) * self.tokens

    @property
    def workload(self) -> Workload:
        """What its speed and memory depend on."""
        return workload_of(self.experiment, self.costs.parameters, self.total_flops / self.tokens)

    @property
    def record(self) -> RunRecord:
        """What run.json holds when the run's folder is made."""
        return RunRecord(
            identity=self.identity,
            sweep=self.sweep,
            arm=self.arm,
            seed=self.seed,
            order=self.order,
            axes=self.axes,
            role=self.role,
            tuned=self.cell.settings,
            labels=SweepLabels(question=self.question, baseline=self.baseline, metrics=self.metrics, match=self.match),
            experiment=self.experiment.name,
            overrides=self.overrides,
            needs=self.needs,
            components=component_versions(self.experiment),
            costs=self.costs.as_dict(),
            workload=self.workload,
            code=self.code,
            extensions=self.extensions,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep: by arm, then tuned cell, then seed, the tuning ones first.

    Attributes:
        tune_metric: what the tuned cells are picked by, lower is better; None where nothing is tuned.
        equal_flops: arm → the arm whose FLOPs in all it was given the tokens for.
        equivalence: largest difference in the first metric that is of no consequence, in its unit; None if none is.
        code: what it was planned with.
    """

    sweep: str
    question: str | None
    baseline: str
    matching: Matching
    metrics: tuple[str, ...]
    runs: tuple[PlannedRun, ...]
    tune_metric: str | None = None
    equal_flops: Mapping[str, str] = field(default_factory=dict)
    equivalence: float | None = None
    code: Code = field(default_factory=current)

    @property
    def match(self) -> str:
        """What is held equal between arms."""
        return self.matching.by

    @property
    def arms(self) -> dict[str, list[PlannedRun]]:
        """Arm → its runs, in the plan's order."""
        found: dict[str, list[PlannedRun]] = {}
        for run in self.runs:
            found.setdefault(run.arm, []).append(run)
        return found

    def record(self, states: Mapping[str, str] | None = None) -> PlanRecord:
        """The plan for `--json` and plan.json; `states` gives what is already known of a run by its identity."""
        return PlanRecord(
            sweep=self.sweep,
            labels=SweepLabels(
                question=self.question,
                baseline=self.baseline,
                metrics=self.metrics,
                match=self.match,
                matching=dataclasses.asdict(self.matching),
                tune_metric=self.tune_metric,
                equivalence=self.equivalence,
            ),
            equal_flops=self.equal_flops,
            code=self.code,
            runs=tuple(_row(run, (states or {}).get(run.identity, "new")) for run in self.runs),
        )

    def as_dict(self, states: Mapping[str, str] | None = None) -> dict[str, object]:
        """The plan for `--json`; see `record`."""
        return self.record(states).as_json()


def _row(run: PlannedRun, state: str) -> PlanRow:
    return PlanRow(
        identity=run.identity,
        arm=run.arm,
        seed=run.seed,
        axes=run.axes,
        role=run.role,
        cell=run.cell.name,
        tuned=run.cell.settings,
        numbers={
            **run.costs.as_dict(),
            "tokens": run.tokens,
            "steps": run.experiment.train.steps,
            "total_flops": run.total_flops,
            "cache_bytes": run.experiment.recipe.cache_bytes(run.experiment),
        },
        needs=run.needs,
        folder=run.folder_name,
        state=state,
        overrides=run.overrides,
    )

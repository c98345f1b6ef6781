"""The planned run, with everything decided, and the plan: all runs of a sweep."""

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
    """One arm with one seed, with everything decided.

    Attributes:
        sweep: the sweep's name.
        arm: the arm's name.
        seed: the random seed.
        order: the index of the arm in the sweep.
        axes: axis → value, for every axis of the sweep; None if the arm has no such option.
        identity: the identity of the configuration and the text.
        text: the digest of the text in the identity; None for a synthetic task, and for a run by an earlier version of
            the lab, whose identity had no text.
        experiment: the resolved configuration.
        overrides: the overrides that reproduce the run: `lab train EXPERIMENT overrides…`.
        costs: parameters, FLOPs and cache bytes.
        question: the sweep's question, which the run folder records, as it does `baseline`, `metrics` and `match`.
        baseline: the arm that the others are compared with.
        metrics: the metrics to compare; the first one decides.
        match: the quantity that is held equal between arms.
        cell: the values of the tuned axes; empty if the sweep tunes nothing.
        role: `report` for a run with its arm's result, `tune` for one that only helps to pick the arm's tuned values.
            If the sweep tunes, the plan has reporting runs for every cell, and only those of the picked cell are run.
        needs: the runs whose checkpoints it uses.
        code: the version of the code that made the plan, and that should run it.
        files: more files for the run folder: the user's own components, as they were when the plan was made.
        extensions: the origin of components that don't belong to the lab; empty if all do.
    """

    sweep: str
    arm: str
    seed: int
    order: int
    axes: Mapping[str, Any]
    identity: str
    text: str | None
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
        """The frozen configuration that a worker reads."""
        return to_yaml(self.experiment)

    @property
    def tokens(self) -> int:
        """Training tokens, rounded up to whole steps."""
        return self.experiment.train.steps * self.experiment.train.tokens_per_step

    @property
    def total_flops(self) -> float:
        """FLOPs of the whole training, including the forward passes of its teachers."""
        return (self.costs.flops_per_token + sum(need.flops_per_token for need in self.needs)) * self.tokens

    @property
    def workload(self) -> Workload:
        """The workload on which its speed and memory depend."""
        return workload_of(self.experiment, self.costs.parameters, self.total_flops / self.tokens)

    @property
    def record(self) -> RunRecord:
        """The content of run.json when the run folder is created."""
        return RunRecord(
            identity=self.identity,
            text=self.text,
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
    """The runs of a sweep, ordered by arm, then tuned cell, then seed, tuning runs first.

    Attributes:
        sweep: the sweep's name.
        question: what the sweep should find out; None for a single run.
        baseline: the arm that the others are compared with.
        matching: how the arms were matched.
        metrics: the metrics to compare; the first one decides.
        runs: all runs.
        tune_metric: the metric that decides the tuned axes, lower is better; None if the sweep tunes nothing.
        equal_flops: arm → the arm whose total FLOPs it was given by its number of tokens.
        equivalence: the largest difference in the first metric that doesn't matter, in its unit; None to test none.
        code: the version of the code that made the plan.
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
        """The quantity that is held equal between arms."""
        return self.matching.by

    @property
    def arms(self) -> dict[str, list[PlannedRun]]:
        """Arm → its runs, in the plan's order."""
        runs_by_arm: dict[str, list[PlannedRun]] = {}
        for run in self.runs:
            runs_by_arm.setdefault(run.arm, []).append(run)
        return runs_by_arm

    def record(self, states: Mapping[str, str] | None = None) -> PlanRecord:
        """The plan for `--json` and plan.json.

        Args:
            states: identity → status, for the runs that have a folder.
        """
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

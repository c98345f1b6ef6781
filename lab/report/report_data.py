"""The data of a report: a sweep's comparison, and further records of its run folders.

Runs are read in their current state, so that a report can be made while the sweep is still running.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml

from lab.comparison.compare import Comparison, ComparisonRow
from lab.comparison.metrics import better
from lab.comparison.read.results import RunResult
from lab.comparison.tables.table import MOST_ROWS, rank
from lab.planning.config_paths import differences
from lab.records import (
    BrokenRecord,
    EvaluationRecord,
    Provenance,
    RunRecord,
    read_evaluations,
    read_submission,
    readable_plan,
    submission_paths,
)

MOST_CHARTED = 8
"""The most arms in a chart: readers can't tell more colours apart."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SEED = re.compile(r"^seed: .*\n", re.MULTILINE)


@dataclass(frozen=True)
class ReportedRun:
    """One run.

    Attributes:
        anchor: its id in the page.
        name: its path below the root; for a run without a folder, the path that it would have.
        record: its run.json; None without a folder, or if that can't be read.
        attempts: the number of times that a worker has started it.
        failure: the kind of failure that ended it; None if it didn't fail.
        evaluations: evaluation name → record.
        jobs: ids of the Slurm jobs submitted for it, the oldest first.
        unread: why its state can't be read; None if it can.
    """

    result: RunResult
    anchor: str
    name: str
    record: RunRecord | None = None
    attempts: int = 0
    failure: str | None = None
    evaluations: Mapping[str, EvaluationRecord] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    unread: str | None = None

    @property
    def seed(self) -> int:
        return self.result.seed

    @property
    def status(self) -> str:
        return self.result.status

    @property
    def finished(self) -> bool:
        return self.result.finished

    @property
    def provenance(self) -> Provenance:
        """The environment that it ran in; empty before it has run."""
        return Provenance() if self.record is None else self.record.provenance

    @property
    def seconds(self) -> float | None:
        """Seconds of training, from the summary; None before the run has ended."""
        return self.result.costs.get("seconds")


@dataclass(frozen=True)
class ReportedArm:
    """One arm.

    Attributes:
        anchor: its id in the page.
        slot: the number of its colour in every chart, 0 for the baseline; None for an arm that charts leave out.
        runs: by seed, ascending.
        differs: dotted key → (the baseline's value, the arm's value), for the configuration without the seed.
        uneven: keys other than the seed in which the arm's own runs differ; there should be none.
    """

    row: ComparisonRow
    anchor: str
    slot: int | None
    runs: tuple[ReportedRun, ...]
    differs: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    uneven: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.row.arm.name

    @property
    def is_baseline(self) -> bool:
        return self.row.is_baseline

    @property
    def costs(self) -> Mapping[str, float]:
        return self.row.arm.costs


@dataclass(frozen=True)
class ReportData:
    """A sweep.

    Attributes:
        root: the folder of the runs.
        arms: all arms, in the sweep's order.
        other_runs: runs of the sweep that belong to no arm: those for tuning, and those left out.
        knob: the option that matching solved for; None if nothing was solved.
        made: when the data was read.
    """

    root: Path
    comparison: Comparison
    arms: tuple[ReportedArm, ...]
    knob: str | None
    made: datetime
    other_runs: tuple[ReportedRun, ...] = ()

    @property
    def sweep(self) -> str:
        return self.comparison.sweep.name

    @property
    def metric(self) -> str:
        """The metric that the answer is about: the sweep's first, unless only another one can be compared."""
        return self.comparison.metric

    @property
    def baseline(self) -> ReportedArm | None:
        return next((arm for arm in self.arms if arm.is_baseline), None)

    @property
    def charted(self) -> tuple[ReportedArm, ...]:
        """The arms that charts show, the baseline first."""
        return tuple(sorted((arm for arm in self.arms if arm.slot is not None), key=lambda arm: arm.slot or 0))

    @property
    def listed(self) -> tuple[ReportedArm, ...]:
        """The arms that tables show, in the sweep's order: all, or the baseline and the best arms."""
        if len(self.arms) <= MOST_ROWS:
            return self.arms
        best = {id(arm) for arm in sorted(self.arms, key=lambda arm: rank(arm.row, self.metric))[:MOST_ROWS]}
        return tuple(arm for arm in self.arms if id(arm) in best)

    @property
    def runs(self) -> Iterator[ReportedRun]:
        for arm in self.arms:
            yield from arm.runs

    @property
    def chart_notes(self) -> list[str]:
        """A note on which arms the charts show; empty if they show all."""
        n = len(self.charted)
        if n == len(self.arms):
            return []
        return [f"Charts show the baseline and the {n - 1} best of {len(self.arms):,} arms by {self.metric}."]


def read_report_data(root: Path, comparison: Comparison) -> ReportData:
    """Read the records of the run folders that the comparison doesn't contain."""
    sweep = comparison.sweep
    jobs, slots = _jobs(root, sweep.name), _slots(comparison)
    baseline_row = next((row for row in comparison.rows if row.is_baseline), None)
    baseline = _configuration(baseline_row)[0] if baseline_row is not None else None
    arms, number = [], 0
    for index, row in enumerate(comparison.rows):
        runs = []
        for run in row.arm.runs.values():
            runs.append(_run(run, f"run-{number}", sweep.name, jobs))
            number += 1
        config, uneven = _configuration(row)
        differs = differences(baseline, config) if baseline is not None and config is not None else {}
        arms.append(ReportedArm(row, f"arm-{index}", slots.get(row.arm.name), tuple(runs), differs, uneven))
    other_runs = tuple(_run(run, "runs", sweep.name, jobs) for run in (*sweep.tuning, *sweep.left_out))
    plan = readable_plan(root, sweep.name)
    knob = None if plan is None else plan.labels.knob
    return ReportData(root, comparison, tuple(arms), knob, datetime.now(UTC), other_runs)


def _slots(comparison: Comparison) -> dict[str, int]:
    """Arm → number of its colour: 0 for the baseline, then in the sweep's order; for many arms, only the best."""
    metric = comparison.metric
    best = sorted(comparison.rows, key=lambda row: rank(row, metric))
    if better(metric) is None:
        best = sorted(comparison.rows, key=lambda row: not row.is_baseline)
    chosen = {row.arm.name for row in best[:MOST_CHARTED]}
    others = [row.arm.name for row in comparison.rows if row.arm.name in chosen and not row.is_baseline]
    return {row.arm.name: 0 for row in comparison.rows if row.is_baseline} | {
        name: slot for slot, name in enumerate(others, start=1)
    }


def _run(run: RunResult, anchor: str, sweep: str, jobs: Mapping[str, list[str]]) -> ReportedRun:
    if run.folder is None:
        return ReportedRun(run, anchor, f"{sweep}/{run.arm}/seed-{run.seed}")
    name = run.folder.name
    record = None
    with suppress(BrokenRecord):
        record = run.folder.record
    attempts, failure, unread = 0, None, None
    try:
        attempts, failure = run.folder.state.attempts, run.folder.state.failure
    except BrokenRecord as error:
        unread = str(error)
    evaluations, sent = read_evaluations(run.folder.path), tuple(jobs.get(name, ()))
    return ReportedRun(run, anchor, name, record, attempts, failure, evaluations, sent, unread)


def _configuration(row: ComparisonRow) -> tuple[dict[str, object] | None, tuple[str, ...]]:
    """An arm's configuration without the seed, and the other keys in which its runs differ."""
    texts: dict[str, None] = {}
    for run in row.arm.runs.values():
        if run.folder is not None:
            with suppress(OSError, UnicodeDecodeError):
                # Parsing is slow, two seconds for a thousand files, and an arm's files should differ only in this line.
                texts[_SEED.sub("", run.folder.config_path.read_text(encoding="utf-8"))] = None
    configs = []
    for text in texts:
        with suppress(yaml.YAMLError):
            config = yaml.load(text, Loader=_LOADER)
            if isinstance(config, dict):
                config.pop("seed", None)
                configs.append(config)
    if not configs:
        return None, ()
    return configs[0], tuple(dict.fromkeys(key for other in configs[1:] for key in differences(configs[0], other)))


def _jobs(root: Path, sweep: str) -> dict[str, list[str]]:
    """Run → ids of the Slurm jobs submitted for it, the oldest first."""
    submissions = []
    for path in submission_paths(root, sweep):
        with suppress(BrokenRecord):
            submissions.append(read_submission(path))
    jobs: dict[str, list[str]] = {}
    for submission in sorted(submissions, key=lambda submission: (submission.created, submission.token)):
        for task, job in zip(submission.tasks, submission.jobs, strict=False):
            for run in task.runs:
                jobs.setdefault(run, []).append(job)
    return jobs

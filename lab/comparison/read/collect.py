"""Collect a sweep's results: from its run folders to its arms, their seeds, and each run's result.

If the sweep has a plan.json, the plan lists the runs that count and gives their labels. A run's own run.json holds the
labels of the sweep that created it, at that time. Tuning runs decide which values an arm picks; they are in no average.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from lab.comparison.read.folders import CollectedRun, SweepFolders
from lab.comparison.read.results import BUDGET, COSTS, MISSING, ArmResults, RunResult, SweepResults
from lab.planning.solve import selection
from lab.planning.solve.selection import Cell, Selection, TuningRun
from lab.records import (
    PLAN_FILE,
    BrokenRecord,
    PlanRecord,
    PlanRow,
    RunFolder,
    SelectedCell,
    SweepLabels,
    escape_text,
    read_plan,
    run_paths,
)
from lab.refusals import RequestError


class _Entry(NamedTuple):
    """One run of the sweep, whether or not it has a folder yet.

    Attributes:
        role: `report` or `tune`.
        cell: the run's values on the tuned axes.
        axes: swept axis → value.
        costs: as in `ArmResults`.
    """

    run: RunResult
    role: str
    cell: Cell
    axes: dict[str, Any]
    costs: dict[str, float]


def collect(root: Path | str, sweep: str) -> SweepResults:
    """Read a sweep's results from the run folders below `root`.

    With a `<root>/<sweep>/plan.json`, the sweep consists of the runs that the plan lists, under the plan's labels:
    other runs are left out, and listed runs without a folder are `missing`. Without a plan, the newest run of each arm
    and seed counts, and an arm's seed is `missing` if only other arms have it.

    Raises:
        RequestError: the sweep has no run, or none that counts; or its plan can't be read.
    """
    root = Path(root)
    if "/" in sweep or sweep in ("", ".", ".."):  # its name becomes part of paths
        raise _no_runs(root, sweep, [])
    plan = _plan(root, sweep)
    folders = SweepFolders(root, sweep)
    entries, others, labels = _planned(plan, folders) if plan is not None else _newest(list(folders.remaining()))
    if all(entry.run.folder is None for entry in entries) and not others:
        raise _no_runs(root, sweep, folders.broken)
    arms, unpicked, tuning = _arms(entries, {} if plan is None else plan.selected, labels)
    if not arms:
        reason = "all of its runs are for tuning" if plan is None else f"its {PLAN_FILE} lists no run that has a folder"
        problem = f"sweep '{sweep}' in {root} has no run to compare yet: {reason}"
        raise RequestError(problem, kind="not_ready", given=sweep)
    metrics = tuple(dict.fromkeys(labels.metrics or ("val/loss",)))
    return SweepResults(
        name=escape_text(sweep),
        question=labels.question,
        baseline=labels.baseline or "",
        metrics=metrics,
        match=labels.match,
        arms=arms,
        tolerance=labels.tolerance or SweepResults.tolerance,
        equivalence=labels.equivalence,
        equivalence_metric=metrics[0],
        left_out=(*others, *unpicked),
        tuning=tuple(tuning),
        broken=tuple(sorted(folders.broken)),
    )


def _planned(plan: PlanRecord, folders: SweepFolders) -> tuple[list[_Entry], list[RunResult], SweepLabels]:
    """The entries of a plan; the runs that aren't in the plan; the sweep's labels."""
    rows = plan.runs
    by_folder = [folders.take(row.folder, row.identity) if row.folder else None for row in rows]
    # A root may have been copied, or the plan written by hand: runs that aren't in the planned folder are found by
    # their identity.
    others = {loaded.run.identity: loaded for loaded in sorted(folders.remaining(), key=_age)}
    runs = [loaded or others.pop(row.identity, None) for row, loaded in zip(rows, by_folder, strict=True)]
    entries = [entry for row, loaded in zip(rows, runs, strict=True) if (entry := _entry(row, loaded))]
    labels = plan.labels
    if labels.baseline is None:
        newest = max((loaded for loaded in runs if loaded), key=_age, default=None)
        labels = labels if newest is None else labels.completed_by(newest.record.labels)
    return entries, [loaded.run for loaded in others.values()], labels


def _entry(row: PlanRow, loaded: CollectedRun | None) -> _Entry | None:
    """One row of a plan with the run that it lists. A row without arm and seed takes those of its run."""
    if row.arm is not None and row.seed is not None:
        arm, seed = row.arm, row.seed
    elif loaded is not None:
        arm, seed = loaded.run.arm, loaded.run.seed
    else:
        return None
    run = loaded.run if loaded else RunResult(arm, seed, row.identity, MISSING)
    if (run.arm, run.seed) != (arm, seed):
        run = replace(run, arm=arm, seed=seed)  # another sweep created it, under other labels
    planned_costs = {name: row.numbers[name] for name in (*COSTS, *BUDGET) if name in row.numbers}
    axes = row.axes if row.axes is not None else loaded.record.axes if loaded else {}
    return _Entry(run, row.role, Cell(row.cell, row.tuned), dict(axes), _costs(loaded) | planned_costs)


def _newest(runs: list[CollectedRun]) -> tuple[list[_Entry], list[RunResult], SweepLabels]:
    """As `_planned`, without a plan: the newest reporting run of each arm and seed, arms in the order of run.json."""
    runs.sort(key=_age)  # so that the newest comes last, and replaces older ones
    newest = {(loaded.run.arm, loaded.run.seed): loaded for loaded in runs if loaded.record.role == "report"}
    order = {loaded.run.arm: loaded.record.order for loaded in newest.values()}
    seeds = sorted({seed for _, seed in newest})
    entries = []
    for arm in sorted(order, key=lambda arm: (order[arm], arm)):
        arm_runs = [newest.get((arm, seed)) for seed in seeds]
        example = next(loaded for loaded in reversed(arm_runs) if loaded is not None)
        axes = {**example.record.axes, **example.record.tuned}
        for seed, loaded in zip(seeds, arm_runs, strict=True):
            run = loaded.run if loaded else RunResult(arm, seed, "", MISSING)
            entries.append(_Entry(run, "report", Cell(), axes, _costs(loaded)))
    counted = {id(loaded) for loaded in newest.values()}
    others = [loaded.run for loaded in runs if id(loaded) not in counted]
    return entries, others, runs[-1].record.labels if runs else SweepLabels()


def _arms(
    entries: Iterable[_Entry], recorded: Mapping[str, SelectedCell], labels: SweepLabels
) -> tuple[dict[str, ArmResults], list[RunResult], list[RunResult]]:
    """The arms with the runs of the values that they picked; the reporting runs of other values; the tuning runs."""
    entries_by_arm: dict[str, list[_Entry]] = {}
    for entry in entries:
        entries_by_arm.setdefault(entry.run.arm, []).append(entry)
    metric = labels.tune_metric or (labels.metrics or ("val/loss",))[0]
    arms, unpicked, tuning = {}, [], []
    for name, arm_entries in entries_by_arm.items():
        arm_selection = None
        reporting = counted = [entry for entry in arm_entries if entry.role == "report"]
        if arm_entries[0].cell.name:
            arm_selection = _selection(name, arm_entries, metric, recorded.get(name))
            picked = arm_selection.picked.name if arm_selection.picked else None
            counted = [entry for entry in reporting if entry.cell.name == picked]
            unpicked += [entry.run for entry in reporting if entry.cell.name != picked and entry.run.folder]
        tuning += [entry.run for entry in arm_entries if entry.role == "tune" and entry.run.folder]
        runs = {entry.run.seed: entry.run for entry in sorted(counted, key=lambda entry: entry.run.seed)}
        costs: dict[str, float] = {}
        for entry in counted or arm_entries[:1]:
            costs |= entry.costs
        arms[name] = ArmResults(name, dict(arm_entries[0].axes), runs, costs, arm_selection)
    return arms, unpicked, tuning


def _selection(arm: str, entries: list[_Entry], metric: str, recorded: SelectedCell | None) -> Selection:
    """What the arm picked: as recorded, else as derived from its tuning runs."""
    cells = {entry.cell.name: entry.cell for entry in entries}
    tuning_runs = [
        TuningRun(
            entry.cell.name,
            entry.run.seed,
            entry.run.status,
            entry.run.metrics.get(metric) if entry.run.finished else None,
            entry.run.folder.name if entry.run.folder else f"{arm},{entry.cell.name}/seed-{entry.run.seed}",
            entry.run.reason,
        )
        for entry in entries
        if entry.role == "tune"
    ]
    derived = selection.select_cell(arm, list(cells.values()), tuning_runs, metric)
    return selection.with_recorded_pick(derived, recorded) or derived


def _costs(loaded: CollectedRun | None) -> dict[str, float]:
    """A run's `COSTS`: as recorded when it was planned, else as it measured them."""
    if loaded is None:
        return {}
    return {name: loaded.run.costs[name] for name in COSTS if name in loaded.run.costs} | dict(loaded.record.costs)


def _plan(root: Path, sweep: str) -> PlanRecord | None:
    """The sweep's plan; None if it has none.

    Raises:
        RequestError: plan.json isn't a valid plan.
    """
    try:
        return read_plan(root, sweep)
    except BrokenRecord as error:
        raise error.with_fix("plan the sweep again") from None


def _age(loaded: CollectedRun) -> tuple[datetime, str]:
    """Sort key, the oldest first; runs of the same age are ordered by folder name."""
    created = loaded.record.created_at or datetime.min.replace(tzinfo=UTC)
    assert loaded.run.folder is not None
    return created, loaded.run.folder.path.name


def _no_runs(root: Path, sweep: str, broken: list[tuple[Path, str]]) -> RequestError:
    if broken:
        problem = f"no run of sweep '{sweep}' in {root} can be read: {broken[0][1]}"
        return RequestError(problem, kind="unreadable", given=sweep)
    # Folders that this user can't open are skipped: they aren't this sweep's.
    others = tuple(sorted({path.parts[-3] for path in run_paths(root, closed=[]) if RunFolder(path).exists}))
    problem = f"no run of sweep '{sweep}'" + ("" if others else f": there are no runs in {root}")
    return RequestError(problem, kind="not_found", given=sweep, expected=others)

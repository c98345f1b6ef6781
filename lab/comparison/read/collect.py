"""From the run folders of a sweep to its arms, their seeds, and what each run came to.

Where the sweep's plan.json stands, it says what counts and under which labels: a run's own run.json holds those of the
sweep that made it, as they were then. Tuning runs decide what an arm picks, and are in no average.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from lab.comparison.read.folders import Found, Shelf
from lab.comparison.read.results import BUDGET, COSTS, MISSING, ArmResults, RunResult, SweepResults
from lab.planning.solve import selection
from lab.planning.solve.selection import Cell, Selection, TuningRun
from lab.records import (
    PLAN_FILE,
    BrokenRecord,
    Picked,
    PlanRecord,
    PlanRow,
    RunFolder,
    SweepLabels,
    escape_text,
    read_plan,
    run_paths,
)
from lab.refusals import RequestError


class _Entry(NamedTuple):
    """A run that the sweep is to have, and what is there of it."""

    run: RunResult
    role: str
    cell: Cell
    axes: dict[str, Any]
    costs: dict[str, float]


def collect(root: Path | str, sweep: str) -> SweepResults:
    """Everything that the run folders below `root` say about a sweep.

    Where `<root>/<sweep>/plan.json` stands, the runs that it lists are the sweep, under its labels: others are left
    out, and listed ones without a folder are missing. Without it the newest run of each arm and seed counts, and a seed
    that other arms have is missing.

    Raises:
        RequestError: no run of that sweep is there or none that counts, or its plan can't be read.
    """
    root = Path(root)
    if "/" in sweep or sweep in ("", ".", ".."):  # its name becomes part of paths
        raise _nothing(root, sweep, [])
    plan = _plan(root, sweep)
    shelf = Shelf(root, sweep)
    entries, others, labels = _planned(plan, shelf) if plan is not None else _newest(list(shelf.rest()))
    if all(entry.run.folder is None for entry in entries) and not others:
        raise _nothing(root, sweep, shelf.broken)
    arms, unpicked, tuning = _arms(entries, {} if plan is None else plan.selected, labels)
    if not arms:
        why = "all that are there are for tuning" if plan is None else f"its {PLAN_FILE} lists none that is there"
        problem = f"sweep '{sweep}' in {root} has no run to compare yet: {why}"
        raise RequestError(problem, kind="not_ready", given=sweep)
    return SweepResults(
        name=escape_text(sweep),
        question=labels.question,
        baseline=labels.baseline or "",
        metrics=tuple(dict.fromkeys(labels.metrics or ("val/loss",))),
        match=labels.match,
        arms=arms,
        tolerance=labels.tolerance or SweepResults.tolerance,
        equivalence=labels.equivalence,
        left_out=(*others, *unpicked),
        tuning=tuple(tuning),
        broken=tuple(sorted(shelf.broken)),
    )


def _planned(plan: PlanRecord, shelf: Shelf) -> tuple[list[_Entry], list[RunResult], SweepLabels]:
    """The entries of a plan; runs that are there and not in it; the labels in force."""
    rows = plan.runs
    taken = [shelf.take(row.folder, row.identity) if row.folder else None for row in rows]
    # A root may have been copied, or the plan made by hand: what its folder doesn't tell, the identity does.
    rest = {found.run.identity: found for found in sorted(shelf.rest(), key=_age)}
    standing = [found or rest.pop(row.identity, None) for row, found in zip(rows, taken, strict=True)]
    entries = [entry for row, found in zip(rows, standing, strict=True) if (entry := _entry(row, found))]
    labels = plan.labels
    if labels.baseline is None:
        newest = max((found for found in standing if found), key=_age, default=None)
        labels = labels if newest is None else labels.completed_by(newest.record.labels)
    return entries, [found.run for found in rest.values()], labels


def _entry(row: PlanRow, found: Found | None) -> _Entry | None:
    """One row of a plan with the run that it lists. A row that names no arm and seed has those of its run."""
    if row.arm is not None and row.seed is not None:
        arm, seed = row.arm, row.seed
    elif found is not None:
        arm, seed = found.run.arm, found.run.seed
    else:
        return None
    run = found.run if found else RunResult(arm, seed, row.identity, MISSING)
    if (run.arm, run.seed) != (arm, seed):
        run = replace(run, arm=arm, seed=seed)  # another sweep made it, under a label of its own
    known = {name: row.numbers[name] for name in (*COSTS, *BUDGET) if name in row.numbers}
    axes = row.axes if row.axes is not None else found.record.axes if found else {}
    return _Entry(run, row.role, Cell(row.cell, row.tuned), dict(axes), _costs(found) | known)


def _newest(found: list[Found]) -> tuple[list[_Entry], list[RunResult], SweepLabels]:
    """As `_planned`, without a plan: of each arm and seed the newest run that reports, in the order of run.json."""
    found.sort(key=_age)  # the newest last, so that it wins
    report = [each for each in found if each.record.role == "report"]
    counted = {(each.run.arm, each.run.seed): each for each in report}
    order = {each.run.arm: each.record.order for each in counted.values()}
    seeds = sorted({seed for _, seed in counted})
    entries = []
    for arm in sorted(order, key=lambda arm: (order[arm], arm)):
        of_arm = [counted.get((arm, seed)) for seed in seeds]
        known = next(each for each in reversed(of_arm) if each is not None)
        axes = {**known.record.axes, **known.record.tuned}
        for seed, each in zip(seeds, of_arm, strict=True):
            run = each.run if each else RunResult(arm, seed, "", MISSING)
            entries.append(_Entry(run, "report", Cell(), axes, _costs(each)))
    kept = {id(each) for each in counted.values()}
    others = [each.run for each in found if id(each) not in kept]
    return entries, others, found[-1].record.labels if found else SweepLabels()


def _arms(
    entries: Iterable[_Entry], recorded: Mapping[str, Picked], labels: SweepLabels
) -> tuple[dict[str, ArmResults], list[RunResult], list[RunResult]]:
    """The arms, each with the runs of what it picked; reporting runs of what it didn't; and those that tuned."""
    of_arm: dict[str, list[_Entry]] = {}
    for entry in entries:
        of_arm.setdefault(entry.run.arm, []).append(entry)
    metric = labels.tune_metric or (labels.metrics or ("val/loss",))[0]
    arms, unpicked, tuning = {}, [], []
    for name, found in of_arm.items():
        made = _selection(name, found, metric, recorded.get(name)) if found[0].cell.name else None
        report = [entry for entry in found if entry.role == "report"]
        shown = report
        if made is not None:
            picked = made.picked.name if made.picked else None
            shown = [entry for entry in report if entry.cell.name == picked]
            unpicked += [entry.run for entry in report if entry.cell.name != picked and entry.run.folder]
        tuning += [entry.run for entry in found if entry.role == "tune" and entry.run.folder]
        runs = {entry.run.seed: entry.run for entry in sorted(shown, key=lambda entry: entry.run.seed)}
        costs: dict[str, float] = {}
        for entry in shown or found[:1]:
            costs |= entry.costs
        arms[name] = ArmResults(name, dict(found[0].axes), runs, costs, made)
    return arms, unpicked, tuning


def _selection(arm: str, entries: list[_Entry], metric: str, entry: Picked | None) -> Selection:
    """What the arm picked: as recorded, else as its tuning runs say."""
    cells = {each.cell.name: each.cell for each in entries}
    tried = [
        TuningRun(
            each.cell.name,
            each.run.seed,
            each.run.status,
            each.run.metrics.get(metric) if each.run.finished else None,
            each.run.folder.name if each.run.folder else f"{arm},{each.cell.name}/seed-{each.run.seed}",
            each.run.reason,
        )
        for each in entries
        if each.role == "tune"
    ]
    made = selection.select_cell(arm, list(cells.values()), tried, metric)
    return selection.with_recorded_pick(made, entry) or made


def _costs(found: Found | None) -> dict[str, float]:
    """What is known of a run from its configuration: as its plan counted it, else as it measured it."""
    if found is None:
        return {}
    return {name: found.run.costs[name] for name in COSTS if name in found.run.costs} | dict(found.record.costs)


def _plan(root: Path, sweep: str) -> PlanRecord | None:
    """A sweep's plan, None where there is none.

    Raises:
        RequestError: it isn't one, or says something that isn't what its key takes.
    """
    try:
        return read_plan(root, sweep)
    except BrokenRecord as error:
        raise error.with_fix("plan the sweep again") from None


def _age(found: Found) -> tuple[datetime, str]:
    """For sorting, the oldest first; by name between equals, so that the same one wins each time."""
    created = found.record.created_at or datetime.min.replace(tzinfo=UTC)
    assert found.run.folder is not None
    return created, found.run.folder.path.name


def _nothing(root: Path, sweep: str, broken: list[tuple[Path, str]]) -> RequestError:
    if broken:
        problem = f"no run of sweep '{sweep}' in {root} can be read: {broken[0][1]}"
        return RequestError(problem, kind="unreadable", given=sweep)
    # A folder that may not be looked into is none of this sweep's.
    others = tuple(sorted({path.parts[-3] for path in run_paths(root, closed=[]) if RunFolder(path).exists}))
    problem = f"no run of sweep '{sweep}'" + ("" if others else f": there are no runs in {root}")
    return RequestError(problem, kind="not_found", given=sweep, expected=others)

"""A plan in stages: first the tuning runs, then the reporting runs of the cell that each arm picked.

The stages keep no state of their own: an arm's pick follows from the folders of its tuning runs. So a submission that
was killed between stages, or is repeated, continues from the folders. Without tuned axes there is one stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.control.preparation.submission import Submission
from lab.dispatch.status.cluster_view import settle
from lab.planning.plan.model import Plan, PlannedRun
from lab.planning.plan.store import save_plan
from lab.planning.solve import selection
from lab.planning.solve.selection import Selection, TuningRun
from lab.records import BrokenRecord, RunFolder, SelectedCell, record_folders, recorded_folders


class Stages:
    """The stages of a plan.

    The plan's plan.json is written after its first runs have been created. If those are refused, nothing is written.

    Attributes:
        selections: arm → its selection, for the arms examined so far; empty if nothing is tuned.

    Args:
        plan: the plan.
        root: the folder that holds all runs.
        options: for `lab.dispatch.control.preparation.prepare.prepare`.
        reselect: pick again, also for arms whose earlier pick has reporting runs.
    """

    def __init__(self, plan: Plan, root: Path, *, reselect: bool = False, **options: bool) -> None:
        self.selections: dict[str, Selection] = {}
        self._news: list[str] = []
        self._plan = plan
        self._root = root
        self._options = options
        self._reselect = reselect
        self._elsewhere: dict[str, str] = {}  # identity → folder, of runs that another sweep created
        self._tuning: dict[str, RunFolder] | None = None  # identity → folder; None before they are created
        self._reporting_arms: set[str] = set()  # arms whose reporting runs were returned

    def next(self) -> Submission | None:
        """Create the folders of the runs that have become known since the last call. None after the last runs.

        The first call returns the tuning runs, and the reporting runs of arms that have picked already. Each later call
        returns the reporting runs of arms that have picked since.
        """
        if self._plan.tune_metric is None:
            if self._tuning is not None:
                return None
            self._tuning = {}
            return self._first(self._plan.runs)
        first = None
        if self._tuning is None:
            first = self._first(first_stage(self._plan))
            self._tuning = {folder.identity: folder for folder in first.order}
        report_runs = self._select()
        report = self._prepare(report_runs) if report_runs else None
        if first is None or report is None:
            return first or report
        return _concatenated(first, report)

    def news(self) -> list[str]:
        """News for the user since the last call: what was picked, and earlier picks that the tuning runs contradict."""
        lines, self._news = self._news, []
        return lines

    def _first(self, runs: Sequence[PlannedRun]) -> Submission:
        settle(self._root, self._plan.sweep)
        submission = self._prepare(runs)
        save_plan(self._plan, self._root)
        planned_folders = {run.folder_name for run in runs}
        elsewhere = {run.identity: run.name for run in submission.order if run.name not in planned_folders}
        record_folders(self._root, self._plan.sweep, elsewhere)
        return submission

    def _prepare(self, runs: Sequence[PlannedRun]) -> Submission:
        return prepare(runs, self._root, **self._options)

    @property
    def unpicked(self) -> list[Selection]:
        """The selections of the arms that have picked nothing, and so have no reporting runs."""
        return [selected for selected in self.selections.values() if selected.picked is None]

    def _select(self) -> list[PlannedRun]:
        """The reporting runs of arms that have picked since the last call."""
        assert self._tuning is not None
        assert self._plan.tune_metric is not None
        recorded = selection.recorded_picks(self._root, self._plan.sweep)
        self._elsewhere = recorded_folders(self._root, self._plan.sweep)
        report_runs: list[PlannedRun] = []
        for arm, runs in self._plan.arms.items():
            if arm in self._reporting_arms:
                continue
            cells = list({run.cell.name: run.cell for run in runs}.values())
            tuning_runs = [
                _tuning_run(run, self._tuning[run.identity], self._plan.tune_metric)
                for run in runs
                if run.role == "tune"
            ]
            selected = selection.select_cell(arm, cells, tuning_runs, self._plan.tune_metric)
            selected = self.selections[arm] = self._with_earlier_pick(selected, recorded.get(arm), runs)
            if selected.picked is not None:
                if not selected.is_recorded and (arm not in recorded or recorded[arm].cell != selected.picked.name):
                    self._news.append(f"{arm}: {selected.describe()}")
                self._reporting_arms.add(arm)
                name = selected.picked.name
                report_runs += [run for run in runs if run.role == "report" and run.cell.name == name]
        selection.record_picks(self._root, self._plan.sweep, self.selections)
        return report_runs

    def _with_earlier_pick(
        self, selected: Selection, recorded: SelectedCell | None, runs: Iterable[PlannedRun]
    ) -> Selection:
        """The recorded pick of an arm, if it has reporting runs; otherwise the selection from its tuning runs.

        A pick on a seed that is reported now is not kept: its result on that seed would be biased.
        """
        earlier = selection.with_recorded_pick(selected, recorded)
        if earlier is None or earlier.picked is None or self._reselect:
            return selected
        name = earlier.picked.name
        of_cell = [run for run in runs if run.role == "report" and run.cell.name == name]
        if not any(_exists(self._root, run, self._elsewhere) for run in of_cell):
            return selected
        reported = sorted(set(earlier.seeds) & {run.seed for run in of_cell})
        if reported:
            problem = f"{name} was picked on seed {reported[0]}, which is reported now"
            self._news.append(f"{selected.arm}: {problem}: it is picked again, on {_seeds(selected.seeds)}")
            return selected
        if selected.picked is not None and selected.picked.name != name:
            self._news.append(
                f"{selected.arm}: {name} was picked before and is kept, as it has runs; the tuning runs now favour "
                f"{selected.picked.name}. `lab submit --reselect` picks again"
            )
        return earlier


def first_stage(plan: Plan) -> list[PlannedRun]:
    """The runs of a plan that are known before any has ended: all of them, or only the tuning runs if it tunes."""
    return [run for run in plan.runs if plan.tune_metric is None or run.role == "tune"]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _tuning_run(run: PlannedRun, folder: RunFolder, metric: str) -> TuningRun:
    try:
        summary, state = folder.summary, folder.state
    except BrokenRecord as error:
        return TuningRun(run.cell.name, run.seed, "failed", None, run.folder_name, str(error))
    # A summary is written only with a final result, after which the run is never run again. So it decides.
    status = (summary and summary.status) or state.status
    reason = summary.reason if summary else state.reason
    value = summary.metrics.get(metric) if summary and status == "finished" else None
    return TuningRun(run.cell.name, run.seed, status, value, run.folder_name, reason)


def _exists(root: Path, run: PlannedRun, elsewhere: Mapping[str, str]) -> bool:
    """Whether a run's folder exists: in its planned place, beside it, or in another sweep."""
    folder = root / (elsewhere.get(run.identity) or run.folder_name)
    for path in (folder, folder.with_name(f"{folder.name}-{run.identity[:8]}")):
        try:
            if RunFolder(path).identity == run.identity:
                return True
        except BrokenRecord:
            continue
    return False


def _concatenated(first: Submission, second: Submission) -> Submission:
    """Two submissions as one, with the runs of the first before those of the second."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Submission):
        one, other = getattr(first, field.name), getattr(second, field.name)
        values[field.name] = [*one, *other] if isinstance(one, list) else one
    return Submission(**values)

"""A plan in stages: the tuning runs first, then the reporting runs of what each arm picked from them.

No stage remembers anything: what an arm picks follows from its tuning runs' folders, so a submit that was killed
between stages, or is simply repeated, goes on where the folders stand. Without tuned axes there is one stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.dispatch.control.prepare import Submission, first_stage, prepare
from lab.dispatch.status.cluster_view import settle
from lab.planning.plan.model import Plan, PlannedRun
from lab.planning.plan.store import save_plan
from lab.planning.solve import selection
from lab.planning.solve.selection import Selection, TuningRun
from lab.records import BrokenRecord, RunFolder, SelectedCell, record_folders, recorded_folders


class Stages:
    """The stages of a plan. Its plan.json is written once its first runs stand: where they are refused, nothing is.

    Attributes:
        selections: arm → what it picks, of the arms that have been looked at; empty where nothing is tuned.

    Args:
        plan: the plan.
        root: where its runs are.
        options: for `lab.dispatch.control.prepare.prepare`.
        reselect: pick anew also where reporting runs of an earlier pick stand.
    """

    def __init__(self, plan: Plan, root: Path, *, reselect: bool = False, **options: bool) -> None:
        self.selections: dict[str, Selection] = {}
        self._news: list[str] = []
        self._plan = plan
        self._root = root
        self._options = options
        self._reselect = reselect
        self._elsewhere: dict[str, str] = {}  # runs that another sweep made
        self._tuning: dict[str, RunFolder] | None = None  # by identity, once they are made
        self._begun: set[str] = set()  # arms whose reporting runs have been handed out

    def next(self) -> Submission | None:
        """Runs that are known now and weren't before: their folders made, and how they stand. None after the last.

        The first call gives the tuning runs, and the reporting ones of arms that have picked already; each later call
        those of the arms that have picked since.
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
        picked = self._select()
        report = self._prepare(picked) if picked else None
        if first is None or report is None:
            return first or report
        return _joined(first, report)

    def news(self) -> list[str]:
        """Lines for a person, since the last call: what was picked, and earlier picks that don't fit what is known."""
        said, self._news = self._news, []
        return said

    def _first(self, runs: Sequence[PlannedRun]) -> Submission:
        settle(self._root, self._plan.sweep)
        submission = self._prepare(runs)
        save_plan(self._plan, self._root)
        homes = {run.folder_name for run in runs}
        moved = {run.identity: run.name for run in submission.order if run.name not in homes}
        record_folders(self._root, self._plan.sweep, moved)
        return submission

    def _prepare(self, runs: Sequence[PlannedRun]) -> Submission:
        return prepare(runs, self._root, **self._options)

    @property
    def unpicked(self) -> list[Selection]:
        """Of the arms that have picked nothing, and so report nothing: why."""
        return [found for found in self.selections.values() if found.picked is None]

    def _select(self) -> list[PlannedRun]:
        """The reporting runs of arms that have picked since the last call."""
        assert self._tuning is not None
        assert self._plan.tune_metric is not None
        before = selection.recorded_picks(self._root, self._plan.sweep)
        self._elsewhere = recorded_folders(self._root, self._plan.sweep)
        found: list[PlannedRun] = []
        for arm, runs in self._plan.arms.items():
            if arm in self._begun:
                continue
            cells = list({run.cell.name: run.cell for run in runs}.values())
            tried = [
                _tried(run, self._tuning[run.identity], self._plan.tune_metric) for run in runs if run.role == "tune"
            ]
            made = selection.select_cell(arm, cells, tried, self._plan.tune_metric)
            made = self.selections[arm] = self._kept(made, before.get(arm), runs)
            if made.picked is not None:
                if not made.is_recorded and (arm not in before or before[arm].cell != made.picked.name):
                    self._news.append(f"{arm}: {made.describe()}")
                self._begun.add(arm)
                found += [run for run in runs if run.role == "report" and run.cell.name == made.picked.name]
        selection.record_picks(self._root, self._plan.sweep, self.selections)
        return found

    def _kept(self, made: Selection, before: SelectedCell | None, runs: Iterable[PlannedRun]) -> Selection:
        """What was picked before, where reporting runs stand on it; else what the tuning runs say.

        A pick on a seed that is reported now can't stand: it would look too good on it.
        """
        kept = selection.with_recorded_pick(made, before)
        if kept is None or kept.picked is None or self._reselect:
            return made
        name = kept.picked.name
        of_cell = [run for run in runs if run.role == "report" and run.cell.name == name]
        if not any(_stands(self._root, run, self._elsewhere) for run in of_cell):
            return made
        reported = sorted(set(kept.seeds) & {run.seed for run in of_cell})
        if reported:
            said = f"{name} was picked on seed {reported[0]}, which is reported now"
            self._news.append(f"{made.arm}: {said}: it is picked anew, on {_seeds(made.seeds)}")
            return made
        if made.picked is not None and made.picked.name != name:
            self._news.append(
                f"{made.arm}: {name} was picked before and stays, as its runs stand; the tuning runs now say "
                f"{made.picked.name}. `lab submit --reselect` picks anew"
            )
        return kept


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _tried(run: PlannedRun, folder: RunFolder, metric: str) -> TuningRun:
    try:
        summary, state = folder.summary, folder.state
    except BrokenRecord as error:
        return TuningRun(run.cell.name, run.seed, "failed", None, run.folder_name, str(error))
    # A summary is written only when the result stands, and that run is never run again: it decides.
    status = (summary and summary.status) or state.status
    reason = summary.reason if summary else state.reason
    value = summary.metrics.get(metric) if summary and status == "finished" else None
    return TuningRun(run.cell.name, run.seed, status, value, run.folder_name, reason)


def _stands(root: Path, run: PlannedRun, elsewhere: Mapping[str, str]) -> bool:
    """Whether a run's folder has been made: in its own place, beside another's, or by another sweep."""
    path = root / (elsewhere.get(run.identity) or run.folder_name)
    for place in (path, path.with_name(f"{path.name}-{run.identity[:8]}")):
        try:
            if RunFolder(place).identity == run.identity:
                return True
        except BrokenRecord:
            continue
    return False


def _joined(first: Submission, second: Submission) -> Submission:
    """Two submissions as one, the runs of the first before those of the second."""
    joined: dict[str, Any] = {}
    for field in dataclasses.fields(Submission):
        one, other = getattr(first, field.name), getattr(second, field.name)
        joined[field.name] = [*one, *other] if isinstance(one, list) else one
    return Submission(**joined)

"""What launchers know of runs, joined to what the run folders say.

The folders are the truth about what was computed. A launcher knows why a run waits, and how a job ended that could say
nothing itself: out of memory, out of time, with its node, or by somebody's hand. Only launchers that were given runs
below the root are asked; the others aren't even imported.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lab.dispatch.launchers import registry
from lab.dispatch.launchers.base import JobEnd, JobView, Launcher, LauncherView
from lab.dispatch.status.status import StatusRow, row_from
from lab.dispatch.worker.attempt import adopt_result
from lab.dispatch.worker.claim import Claim
from lab.records import Failure, RunFolder, survey

_UNSETTLED = ("queued", "running", "preempted", "lost")
"""Of such runs a launcher may know more than their folders."""

_CLOCK_SLACK = 120.0  # seconds by which the clocks of a node and a controller may differ


@dataclass(frozen=True)
class LauncherJobs:
    """A launcher with what it knows of the runs below a root, as `lab cancel` needs it."""

    launcher: type[Launcher]
    view: LauncherView
    root: Path

    def waiting(self) -> dict[str, list[RunFolder]]:
        """Jobs that haven't begun → their runs."""
        return self._runs("waiting")

    def running(self) -> dict[str, list[RunFolder]]:
        """Jobs that have begun → their runs."""
        return self._runs("running")

    def cancel(self, jobs: Sequence[str]) -> str | None:
        """End these jobs; why that failed, or None."""
        return self.launcher.cancel(self.root, jobs)

    def _runs(self, phase: str) -> dict[str, list[RunFolder]]:
        return {job: [RunFolder(self.root / run) for run in runs] for job, runs in self.view.runs_of(phase).items()}


@dataclass(frozen=True)
class ClusterView:
    """What all launchers know of runs; `jobs` is empty where none of them was ever given to one that keeps records."""

    jobs: tuple[LauncherJobs, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be found out, in a line each."""
        return tuple(note for known in self.jobs for note in known.view.notes)

    def launcher_of(self, run: str) -> type[Launcher] | None:
        """The launcher that was given a run."""
        return next((known.launcher for known in self.jobs if run in known.view.jobs_by_run), None)

    def join(self, rows: Sequence[StatusRow]) -> list[StatusRow]:
        """The rows, with what the launchers add."""
        return [self._joined(row) for row in rows]

    def output_files(self, row: StatusRow) -> list[Path]:
        """The files with what a run's job printed outside of the run."""
        launcher = self.launcher_of(row.run)
        if launcher is None or row.job is None:
            return []
        return launcher.output_files(self.jobs[0].root, row.job)

    def _joined(self, row: StatusRow) -> StatusRow:
        for known in self.jobs:
            sent = known.view.jobs_by_run.get(row.run)
            if sent:
                job = known.view.job_of(row.run)
                row = replace(row, job=sent[-1]) if job is None else join(row, job)
        return row


def look(root: Path | str, rows: Sequence[StatusRow]) -> ClusterView:
    """What launchers know of these runs below a root.

    Raises:
        RequestError: a record of what was sent can't be read, or its launcher can't be loaded.
    """
    root = Path(root)
    if not rows:
        return ClusterView()
    names = {row.run for row in rows}
    unsettled = {row.run for row in rows if row.status in _UNSETTLED}
    known = [LauncherJobs(each, each.look(root, unsettled), root) for each in registry.with_records(root)]
    return ClusterView(tuple(jobs for jobs in known if not names.isdisjoint(jobs.view.jobs_by_run)))


def join(row: StatusRow, job: JobView) -> StatusRow:
    """A run's row, with what its job adds."""
    row = replace(row, job=job.id, job_state=job.state)
    if row.status not in _UNSETTLED:
        return row
    if job.phase != "ended":
        return _with_living(row, job)
    if row.status == "running" or row.failure == "other_code":
        return row  # its worker says itself how it stands
    end = job.end or JobEnd()
    last_sign = time.time() - row.heartbeat_age if row.heartbeat_age is not None else None
    if (
        row.status != "queued"
        and end.time is not None
        and last_sign is not None
        and end.time < last_sign - _CLOCK_SLACK
    ):
        return row  # somebody else has run it since
    said = f"job {job.id} {end.message}"
    if row.status == "queued":
        # Nothing that became of the job was the run's doing.
        failure: Failure = end.failure if end.failure in ("node_lost", "cancelled") else "interrupted"
        reason = f"{row.reason or f'{said} before the run began'}; `lab submit` sends it again"
        return replace(row, status="lost", failure=failure, reason=reason)
    if row.status == "preempted":
        reason = f"{row.reason or 'stopped'}; {said}; `lab submit` goes on with it"
        return replace(row, failure="cancelled" if end.failure == "cancelled" else None, reason=reason)
    return replace(row, status=end.status, failure=end.failure, reason=said)


def _with_living(row: StatusRow, job: JobView) -> StatusRow:
    begun = job.phase == "running"
    where = f" on {job.nodes}" if job.nodes else ""
    match row.status:
        case "running":
            return row
        case "lost" if begun:
            return replace(row, waits_for=f"job runs on{where}")
        case "lost":
            reason = f"{row.reason}; job {job.id} is in the queue again"
            return replace(row, status="preempted", reason=reason, waits_for=job.waits_for or job.state)
    return replace(row, waits_for=f"its turn{where}" if begun else job.waits_for or job.state)


def settle(root: Path, sweep: str) -> list[str]:
    """Write into the folders of a sweep's lost runs how their jobs ended, where that was the run's own doing.

    To be called before what is lost is sent again: a run that was out of memory or out of time must not be taken for
    one whose node was lost.

    Returns:
        names of the runs that stand as failed now.
    """
    if not registry.with_records(root):
        return []
    lost = [row for row in map(row_from, survey(root, sweep).runs) if row.status == "lost"]
    return settle_rows(look(root, lost).join(lost), root)


def settle_rows(rows: Sequence[StatusRow], root: Path) -> list[str]:
    """As `settle`, of rows that are joined with what launchers know."""
    settled = []
    for row in rows:
        if row.status != "failed" or row.failure not in ("out_of_memory", "time"):
            continue
        run = RunFolder(root / row.run)
        if run.state.status not in ("running", "lost") or (claim := Claim.take(run.path)) is None:
            continue
        with claim:
            state = adopt_result(run)
            if state.status in ("running", "lost"):
                run.state = state.replace(status="failed", failure=row.failure, reason=row.reason)
                settled.append(row.run)
    return settled


class Watch:
    """Runs that are being watched: launchers are asked now and then, in the background, as an answer may take a while.

    Args:
        root: below which the runs stand.
        seconds: between two questions to a cluster, whose controller serves everybody.
    """

    def __init__(self, root: Path, seconds: float = 10.0) -> None:
        self._root = root
        self._seconds = seconds
        self._view = ClusterView()
        self._asked = -math.inf
        self._thread: threading.Thread | None = None

    def join(self, rows: Sequence[StatusRow]) -> list[StatusRow]:
        """The rows, with what the launchers said a moment ago."""
        if self._asked == -math.inf:
            self._ask(rows)
        joined = self._view.join(rows)
        age = time.monotonic() - self._asked
        if self._view.jobs and age > 1.0 and not any(row.open for row in joined):
            self._ask(rows)  # nothing more to watch, unless a launcher goes on with what has just been lost
            joined = self._view.join(rows)
        elif age >= self._seconds and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._ask, args=(rows,), name="queue", daemon=True)
            self._thread.start()
        return joined

    def output_files(self, row: StatusRow) -> list[Path]:
        """The files with what a run's job printed outside of the run."""
        return self._view.output_files(row)

    def forget(self) -> None:
        """Ask anew at the next call, as more has been sent."""
        if self._thread is not None:
            self._thread.join()
        self._asked = -math.inf

    def _ask(self, rows: Sequence[StatusRow]) -> None:
        self._view = look(self._root, rows)
        self._asked = time.monotonic()

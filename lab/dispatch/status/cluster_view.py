"""Joins what launchers know about runs to the state in the run folders.

The folders are the truth about results. A launcher knows why a run waits, and how a job ended that couldn't write so
itself: out of memory, at its time limit, with its node, or cancelled. Only launchers that were given runs below the
root are asked. The others aren't imported.
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
"""Runs of which a launcher may know more than their folders."""

_CLOCK_SLACK = 120.0  # seconds by which the clocks of a node and the controller may differ


@dataclass(frozen=True)
class LauncherJobs:
    """A launcher and what it knows about the runs below a root."""

    launcher: type[Launcher]
    view: LauncherView
    root: Path

    def waiting(self) -> dict[str, list[RunFolder]]:
        """Job that hasn't started → its runs."""
        return self._runs("waiting")

    def running(self) -> dict[str, list[RunFolder]]:
        """Job that has started → its runs."""
        return self._runs("running")

    def cancel(self, jobs: Sequence[str]) -> str | None:
        """Cancel these jobs. Returns the reason if that failed, otherwise None."""
        return self.launcher.cancel(self.root, jobs)

    def _runs(self, phase: str) -> dict[str, list[RunFolder]]:
        return {job: [RunFolder(self.root / run) for run in runs] for job, runs in self.view.runs_of(phase).items()}


@dataclass(frozen=True)
class ClusterView:
    """What all launchers know about runs. `jobs` is empty if no launcher that keeps records was given any."""

    jobs: tuple[LauncherJobs, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What couldn't be found out, one line each."""
        return tuple(note for launcher_jobs in self.jobs for note in launcher_jobs.view.notes)

    def launcher_of(self, run: str) -> type[Launcher] | None:
        """The launcher that was given a run."""
        return next(
            (launcher_jobs.launcher for launcher_jobs in self.jobs if run in launcher_jobs.view.jobs_by_run), None
        )

    def join(self, rows: Sequence[StatusRow]) -> list[StatusRow]:
        """The rows, completed with what the launchers know."""
        return [self._joined(row) for row in rows]

    def output_files(self, row: StatusRow) -> list[Path]:
        """The files with the output of a run's job outside of the run."""
        launcher = self.launcher_of(row.run)
        if launcher is None or row.job is None:
            return []
        return launcher.output_files(self.jobs[0].root, row.job)

    def _joined(self, row: StatusRow) -> StatusRow:
        for launcher_jobs in self.jobs:
            sent = launcher_jobs.view.jobs_by_run.get(row.run)
            if sent:
                job = launcher_jobs.view.job_of(row.run)
                row = replace(row, job=sent[-1]) if job is None else join(row, job)
        return row


def look(root: Path | str, rows: Sequence[StatusRow]) -> ClusterView:
    """What launchers know about these runs below a root.

    Raises:
        RequestError: a record of what was sent can't be read, or its launcher can't be loaded.
    """
    root = Path(root)
    if not rows:
        return ClusterView()
    names = {row.run for row in rows}
    unsettled = {row.run for row in rows if row.status in _UNSETTLED}
    views = [LauncherJobs(launcher, launcher.look(root, unsettled), root) for launcher in registry.with_records(root)]
    return ClusterView(tuple(jobs for jobs in views if not names.isdisjoint(jobs.view.jobs_by_run)))


def join(row: StatusRow, job: JobView) -> StatusRow:
    """A run's row, completed with what its job adds."""
    row = replace(row, job=job.id, job_state=job.state)
    if row.status not in _UNSETTLED:
        return row
    if job.phase != "ended":
        return _with_open_job(row, job)
    if row.status == "running" or row.failure == "other_code":
        return row  # its worker writes its state
    end = job.end or JobEnd()
    last_sign = time.time() - row.heartbeat_age if row.heartbeat_age is not None else None
    if (
        row.status != "queued"
        and end.time is not None
        and last_sign is not None
        and end.time < last_sign - _CLOCK_SLACK
    ):
        return row  # another worker has run it since
    message = f"job {job.id} {end.message}"
    if row.status == "queued":
        # The run didn't cause the end of the job.
        failure: Failure = end.failure if end.failure in ("node_lost", "cancelled") else "interrupted"
        reason = f"{row.reason or f'{message} before the run began'}; `lab submit` sends it again"
        return replace(row, status="lost", failure=failure, reason=reason)
    if row.status == "preempted":
        reason = f"{row.reason or 'stopped'}; {message}; `lab submit` goes on with it"
        return replace(row, failure="cancelled" if end.failure == "cancelled" else None, reason=reason)
    return replace(row, status=end.status, failure=end.failure, reason=message)


def _with_open_job(row: StatusRow, job: JobView) -> StatusRow:
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
    """Mark lost runs of a sweep as failed if they ended their jobs themselves: out of memory or at the time limit.

    Call it before lost runs are sent again, so that such a run isn't taken for one whose node was lost.

    Returns:
        the names of the runs that are marked as failed now.
    """
    if not registry.with_records(root):
        return []
    lost = [row for row in map(row_from, survey(root, sweep).runs) if row.status == "lost"]
    return settle_rows(look(root, lost).join(lost), root)


def settle_rows(rows: Sequence[StatusRow], root: Path) -> list[str]:
    """As `settle`, for rows that are joined with what launchers know."""
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
    """Joins rows repeatedly. It asks launchers in the background and not too often, because an answer may take a while.

    Args:
        root: folder of the run folders.
        seconds: between two questions to a cluster, whose controller serves all users.
    """

    def __init__(self, root: Path, seconds: float = 10.0) -> None:
        self._root = root
        self._seconds = seconds
        self._view = ClusterView()
        self._asked = -math.inf
        self._thread: threading.Thread | None = None

    def join(self, rows: Sequence[StatusRow]) -> list[StatusRow]:
        """The rows, completed with the launchers' latest answers."""
        if self._asked == -math.inf:
            self._ask(rows)
        joined = self._view.join(rows)
        age = time.monotonic() - self._asked
        if self._view.jobs and age > 1.0 and not any(row.open for row in joined):
            self._ask(rows)  # all have ended, unless a launcher continues a run that has just been lost
            joined = self._view.join(rows)
        elif age >= self._seconds and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._ask, args=(rows,), name="queue", daemon=True)
            self._thread.start()
        return joined

    def output_files(self, row: StatusRow) -> list[Path]:
        """The files with the output of a run's job outside of the run."""
        return self._view.output_files(row)

    def forget(self) -> None:
        """Ask again at the next call, because more runs have been sent."""
        if self._thread is not None:
            self._thread.join()
        self._asked = -math.inf

    def _ask(self, rows: Sequence[StatusRow]) -> None:
        self._view = look(self._root, rows)
        self._asked = time.monotonic()

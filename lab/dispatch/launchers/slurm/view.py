"""What Slurm knows about runs: why they wait, and how a job ended that was killed before it could write anything.

Such a job ran out of memory or of time, lost its node, or was cancelled. If Slurm doesn't answer, a note says so.
"""

from __future__ import annotations

import contextlib
import pwd
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from lab.dispatch.launchers.base import JobEnd, JobView, LauncherView
from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.send import journal
from lab.records import Failure, Status

# State of a job that left its run unfinished → the run's status, its kind of failure, and a message.
_ENDS: dict[str, tuple[Status, Failure | None, str]] = {
    "OUT_OF_MEMORY": ("failed", "out_of_memory", "was killed for using more memory than it had"),
    "TIMEOUT": ("failed", "time", "reached its time limit before it could stop"),
    "DEADLINE": ("failed", "time", "reached its deadline before it could stop"),
    "NODE_FAIL": ("lost", "node_lost", "lost its node"),
    "BOOT_FAIL": ("lost", "node_lost", "had a node that didn't start"),
    "PREEMPTED": ("preempted", None, "was preempted and not put back into the queue"),
    "REVOKED": ("lost", "cancelled", "was revoked"),
    "CANCELLED": ("lost", "cancelled", "was cancelled"),
    "FAILED": ("lost", "interrupted", "failed"),
    "COMPLETED": ("lost", "interrupted", "ended without it"),
}


def job_view(
    id: str,
    state: str,
    *,
    reason: str = "",
    nodes: str = "",
    cancelled_by: str | None = None,
    exit_code: str | None = None,
    end_time: float | None = None,
) -> JobView:
    """A job or array task, from the controller or the accounting database.

    Args:
        id: `12`, or `12_3`.
        state: in Slurm's words.
        reason: why it waits, in Slurm's words; empty if it doesn't wait.
        nodes: where it runs or ran.
        cancelled_by: name of the user who cancelled it; None if nobody did.
        exit_code: `code:signal`.
        end_time: unix seconds.
    """
    if state in commands.LIVE:
        return JobView(id, state, "waiting" if state == "PENDING" else "running", reason, nodes)
    status, failure, message = _ENDS.get(state, ("lost", "interrupted", f"ended as {state}"))
    if cancelled_by is not None:
        message += f" by {cancelled_by}"
    if state == "NODE_FAIL" and nodes:
        message += f" {nodes}"
    code, _, number = (exit_code or "").partition(":")
    if state == "FAILED" and (number or "0") != "0":
        message += f" (signal {number})"
    elif state == "FAILED" and code:
        message += f" (exit code {code})"
    return JobView(id, state, "ended", reason, nodes, JobEnd(status, failure, message, end_time))


def look(root: Path, runs: Collection[str]) -> LauncherView:
    """Slurm's view of the runs below a root. Slurm's commands are run only for the jobs of `runs`.

    Raises:
        RequestError: a record of a submission can't be read.
    """
    jobs_by_run = journal.jobs_of(root)
    ids = dict.fromkeys(job for run in runs for job in jobs_by_run.get(run, ()))
    jobs, notes = _read_jobs(list(ids))
    return LauncherView(jobs_by_run, jobs, notes)


def output_files(root: Path, job: str) -> list[Path]:
    """The files with a job's own standard output and standard error, in this order."""
    for record in journal.records(root):
        if job in record.jobs:
            paths = [path for path in record.folder.rglob(f"{job}_*") if path.suffix in (".out", ".err")]
            return sorted(paths, key=lambda path: (path.suffix != ".out", path.name))
    return []


def _read_jobs(ids: Sequence[str]) -> tuple[dict[str, JobView], tuple[str, ...]]:
    """The jobs by id, without those that Slurm no longer knows, and notes on what Slurm doesn't answer."""
    if not ids:
        return {}, ()
    notes: list[str] = []
    queue = commands.squeue(jobs=_array_ids(ids))
    if queue.value is None:
        notes.append(f"Slurm doesn't say how the jobs stand ({queue.reason}): this is what the run folders say")
    jobs = {row.job: job_view(row.job, row.state, reason=row.reason, nodes=row.nodes) for row in queue.value or ()}
    # The accounting database knows more about jobs that have ended, and jobs that the controller has forgotten.
    incomplete = [id for id in ids if id not in jobs or jobs[id].phase == "ended"]
    if incomplete:
        accounting = commands.sacct(jobs=_array_ids(incomplete))
        if accounting.value is None:
            notes.append(f"Slurm's accounting doesn't answer ({accounting.reason}): how jobs ended may be missing")
        for accounting_row in accounting.value or ():
            if _is_news(accounting_row, jobs.get(accounting_row.job), controller_answers=queue.value is not None):
                jobs[accounting_row.job] = _ended_job_view(accounting_row)
    return {id: jobs[id] for id in ids if id in jobs}, tuple(notes)


def _array_ids(ids: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(id.partition("_")[0] for id in ids))


def _is_news(row: commands.AccountingRow, job: JobView | None, *, controller_answers: bool) -> bool:
    """Whether a row of the accounting database says more than the controller.

    The database is some seconds behind. So a job that lives in the database only is one that has ended and that the
    controller has forgotten, unless the controller doesn't answer.
    """
    if job is not None and job.phase != "ended":
        return False
    return row.state not in commands.LIVE or (job is None and not controller_answers)


def _ended_job_view(row: commands.AccountingRow) -> JobView:
    return job_view(
        row.job,
        row.state,
        nodes=row.nodes,
        cancelled_by=_user_name(row.cancelled_by),
        exit_code=row.exit_code,
        end_time=_unix_seconds(row.end_time),
    )


def _user_name(user_id: str | None) -> str | None:
    """The user's name, or `user 1000` if this machine doesn't know it; None for None."""
    with contextlib.suppress(KeyError, ValueError):
        return pwd.getpwuid(int(user_id)).pw_name if user_id is not None else None
    return f"user {user_id}"


def _unix_seconds(text: str) -> float | None:
    with contextlib.suppress(ValueError, OverflowError):
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    return None

"""What Slurm knows of runs: why they wait, and how a job ended that could say nothing itself.

It may have run out of memory or of time, lost its node, or been cancelled. Where Slurm doesn't answer, a note says so.
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

# How a job ended that left its run unfinished: status and kind of failure of that run, and what to say.
_ENDS: dict[str, tuple[Status, Failure | None, str]] = {
    "OUT_OF_MEMORY": ("failed", "out_of_memory", "was killed for taking more memory than it had"),
    "TIMEOUT": ("failed", "time", "came to its time limit before it could stop"),
    "DEADLINE": ("failed", "time", "came to its deadline before it could stop"),
    "NODE_FAIL": ("lost", "node_lost", "lost its node"),
    "BOOT_FAIL": ("lost", "node_lost", "had a node that didn't start"),
    "PREEMPTED": ("preempted", None, "was preempted, and not put back into the queue"),
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
    by: str | None = None,
    exit_code: str | None = None,
    ended: float | None = None,
) -> JobView:
    """A job or array task, from whichever of Slurm's memories has it.

    Args:
        id: `12`, or `12_3`.
        state: in Slurm's words.
        reason: why it waits, in Slurm's words; empty where it doesn't.
        by: who cancelled it.
        exit_code: `code:signal`.
        ended: unix seconds.
    """
    if state in commands.LIVE:
        return JobView(id, state, "waiting" if state == "PENDING" else "running", reason, nodes)
    status, failure, said = _ENDS.get(state, ("lost", "interrupted", f"ended as {state}"))
    if by is not None:
        said += f" by {by}"
    if state == "NODE_FAIL" and nodes:
        said += f" {nodes}"
    code, _, number = (exit_code or "").partition(":")
    if state == "FAILED" and (number or "0") != "0":
        said += f" (signal {number})"
    elif state == "FAILED" and code:
        said += f" (exit code {code})"
    return JobView(id, state, "ended", reason, nodes, JobEnd(status, failure, said, ended))


def look(root: Path, runs: Collection[str]) -> LauncherView:
    """Slurm's view of the runs below a root; it is asked only about the jobs of `runs`.

    Raises:
        RequestError: a record of what was sent can't be read.
    """
    ids = journal.jobs_of(root)
    wanted = dict.fromkeys(job for run in runs for job in ids.get(run, ()))
    jobs, notes = _ask(list(wanted))
    return LauncherView(ids, jobs, notes)


def output_files(root: Path | str, job: str) -> list[Path]:
    """The files with what a job said outside of runs: its standard output, then its errors."""
    for record in journal.records(Path(root)):
        if job in record.jobs:
            found = [path for path in record.folder.rglob(f"{job}_*") if path.suffix in (".out", ".err")]
            return sorted(found, key=lambda path: (path.suffix != ".out", path.name))
    return []


def _ask(wanted: Sequence[str]) -> tuple[dict[str, JobView], tuple[str, ...]]:
    if not wanted:
        return {}, ()
    arrays = list(dict.fromkeys(name.partition("_")[0] for name in wanted))
    notes: list[str] = []
    jobs: dict[str, JobView] = {}
    queued = commands.squeue(jobs=arrays)
    if queued.value is None:
        notes.append(f"Slurm doesn't say how the jobs stand ({queued.reason}): this is what the run folders say")
    for each in queued.value or ():
        jobs[each.job] = job_view(each.job, each.state, reason=each.reason, nodes=each.nodes)
    ended = [name for name in wanted if name not in jobs or jobs[name].phase == "ended"]
    accounted = commands.sacct(jobs=list(dict.fromkeys(name.partition("_")[0] for name in ended))) if ended else None
    if accounted is not None and accounted.value is None:
        notes.append(f"Slurm's accounting doesn't answer ({accounted.reason}): how jobs ended may be missing")
    for row in (accounted.value or ()) if accounted is not None else ():
        known = jobs.get(row.job)
        late = row.state in commands.LIVE  # the database is seconds behind the controller
        if known is not None and (known.phase != "ended" or late):
            continue
        if late and queued.value is not None:
            continue  # and the controller, which does know, has forgotten the job
        jobs[row.job] = job_view(
            row.job,
            row.state,
            nodes=row.nodes,
            by=_user(row.by),
            exit_code=row.exit_code,
            ended=_moment(row.ended),
        )
    return {name: jobs[name] for name in wanted if name in jobs}, tuple(notes)


def _user(number: str | None) -> str | None:
    """The name of a user id."""
    with contextlib.suppress(KeyError, ValueError):
        return pwd.getpwuid(int(number)).pw_name if number is not None else None
    return f"user {number}"


def _moment(text: str) -> float | None:
    with contextlib.suppress(ValueError, OverflowError):
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    return None

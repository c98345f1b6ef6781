"""What Slurm says of runs, joined to what their folders say.

The folders are the truth about what was computed. Slurm knows why a run waits, and how a job ended that could say
nothing itself: out of memory, out of time, with its node, or by somebody's hand. Where Slurm doesn't answer, a note
says so and the folders' word stands.
"""

from __future__ import annotations

import contextlib
import pwd
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.send import journal
from lab.dispatch.status.status import Row
from lab.dispatch.worker.attempt import REFUSED_BECAUSE, adopt_result
from lab.dispatch.worker.claim import Claim
from lab.records import RunFolder
from lab.records.state import Failure, Status

_SLACK = 120.0  # seconds by which the clocks of a node and the controller may differ
_UNKNOWN = ("queued", "running", "preempted", "lost")  # of such runs Slurm may know more than their folders

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


@dataclass(frozen=True)
class Job:
    """A job or array task, from whichever of Slurm's memories has it.

    Attributes:
        id: `12`, or `12_3`.
        state: in Slurm's words.
        reason: why it waits, in Slurm's words; empty where it doesn't.
        by: who cancelled it.
        exit_code: `code:signal`.
        ended: unix seconds.
    """

    id: str
    state: str
    reason: str = ""
    nodes: str = ""
    by: str | None = None
    exit_code: str | None = None
    ended: float | None = None

    @property
    def live(self) -> bool:
        return self.state in commands.LIVE

    def end(self) -> str:
        """How it ended, for a person."""
        said = _ENDS.get(self.state, ("lost", "interrupted", f"ended as {self.state}"))[2]
        if self.by is not None:
            said += f" by {self.by}"
        if self.state == "NODE_FAIL" and self.nodes:
            said += f" {self.nodes}"
        code, _, number = (self.exit_code or "").partition(":")
        if self.state == "FAILED" and (number or "0") != "0":
            said += f" (signal {number})"
        elif self.state == "FAILED" and code:
            said += f" (exit code {code})"
        return f"job {self.id} {said}"


@dataclass(frozen=True)
class View:
    """Slurm's view of some runs.

    Attributes:
        ids: run name → the jobs that were sent for it, oldest first.
        jobs: job → what Slurm says of it; those that it has forgotten are left out.
        notes: what could not be found out, in a line each.
    """

    root: Path
    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)
    jobs: Mapping[str, Job] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def of(self, run: str) -> Job | None:
        """The job that a run is with: one that lives, or else the last that Slurm remembers."""
        known = [self.jobs[name] for name in self.ids.get(run, ()) if name in self.jobs]
        living = [job for job in known if job.live]
        found = living or known
        return found[-1] if found else None

    def join(self, rows: Iterable[Row]) -> list[Row]:
        """The rows, with what Slurm adds."""
        return [self._joined(row) for row in rows]

    def _joined(self, row: Row) -> Row:
        if not self.ids.get(row.run):
            return row
        job = self.of(row.run)
        return replace(row, job=self.ids[row.run][-1]) if job is None else join(row, job)

    # What `lab cancel` needs of it: see lab.dispatch.control.cancel.Jobs.

    def waiting(self) -> dict[str, list[RunFolder]]:
        """Jobs that haven't begun → their runs."""
        return self._runs({name for name, job in self.jobs.items() if job.state == "PENDING"})

    def running(self) -> dict[str, list[RunFolder]]:
        """Other jobs that live → their runs."""
        return self._runs({name for name, job in self.jobs.items() if job.live and job.state != "PENDING"})

    def cancel(self, jobs: Sequence[str]) -> str | None:
        """End these jobs; why that failed, or None."""
        return commands.cancel(jobs)

    def _runs(self, wanted: set[str]) -> dict[str, list[RunFolder]]:
        found: dict[str, list[RunFolder]] = {}
        for run, jobs in self.ids.items():
            for job in jobs:
                if job in wanted:
                    found.setdefault(job, []).append(RunFolder(self.root / run))
        return found


def look(root: Path | str, rows: Iterable[Row]) -> View | None:
    """Slurm's view of these runs below a root; None if none of them was ever sent to Slurm.

    Slurm is asked only about those of which it may know more than their folders.

    Raises:
        RequestError: a record of what was sent can't be read.
    """
    root = Path(root)
    ids = journal.jobs_of(root)
    sent = [row for row in rows if row.run in ids]
    if not sent:
        return None
    wanted = dict.fromkeys(job for row in sent if row.status in _UNKNOWN for job in ids[row.run])
    jobs, notes = _ask(list(wanted))
    return View(root, ids, jobs, notes)


def output_files(root: Path | str, job: str) -> list[Path]:
    """The files with what a job said outside of runs: its standard output, then its errors."""
    for record in journal.records(Path(root)):
        if job in record.jobs:
            found = [path for path in record.folder.rglob(f"{job}_*") if path.suffix in (".out", ".err")]
            return sorted(found, key=lambda path: (path.suffix != ".out", path.name))
    return []


def join(row: Row, job: Job) -> Row:
    """A run's row, with what its job adds."""
    row = replace(row, job=job.id, job_state=job.state)
    if row.status not in _UNKNOWN:
        return row
    if job.live:
        return _with_living(row, job)
    if row.status == "running" or (row.reason or "").startswith(REFUSED_BECAUSE):
        return row  # its worker says itself how it stands
    seen = time.time() - row.heartbeat_age if row.heartbeat_age is not None else None
    if row.status != "queued" and job.ended is not None and seen is not None and job.ended < seen - _SLACK:
        return row  # somebody else has run it since
    status, failure, _ = _ENDS.get(job.state, ("lost", "interrupted", ""))
    if row.status == "queued":
        # Nothing that became of the job was the run's doing.
        kept: Failure = failure if failure in ("node_lost", "cancelled") else "interrupted"
        reason = f"{row.reason or f'{job.end()} before the run began'}; `lab submit` sends it again"
        return replace(row, status="lost", failure=kept, reason=reason)
    if row.status == "preempted":
        reason = f"{row.reason or 'stopped'}; {job.end()}; `lab submit` goes on with it"
        return replace(row, failure="cancelled" if failure == "cancelled" else None, reason=reason)
    return replace(row, status=status, failure=failure, reason=job.end())


def settle(rows: Sequence[Row], root: Path | str) -> list[str]:
    """Write into run folders how their jobs ended, where a run's own doing ended it: out of memory, or out of time.

    Whoever reads only the folders would take such a run for one whose node was lost, and try it again as it is.

    Args:
        rows: as joined with Slurm's view.
    Returns:
        names of the runs that stand as failed now.
    """
    settled = []
    for row in rows:
        if row.status != "failed" or row.failure not in ("out_of_memory", "time"):
            continue
        run = RunFolder(Path(root) / row.run)
        if run.state.status not in ("running", "lost") or (claim := Claim.take(run.path)) is None:
            continue
        with claim:
            state = adopt_result(run)
            if state.status in ("running", "lost"):
                run.state = state.replace(status="failed", failure=row.failure, reason=row.reason)
                settled.append(row.run)
    return settled


def _with_living(row: Row, job: Job) -> Row:
    begun = job.state != "PENDING"
    match row.status:
        case "running":
            return row
        case "lost" if begun:
            return replace(row, waits_for=f"job runs on{_on(job)}")
        case "lost":
            reason = f"{row.reason}; job {job.id} is in the queue again"
            return replace(row, status="preempted", reason=reason, waits_for=job.reason or job.state)
    return replace(row, waits_for=f"its turn{_on(job)}" if begun else job.reason or job.state)


def _on(job: Job) -> str:
    return f" on {job.nodes}" if job.nodes else ""


def _ask(wanted: Sequence[str]) -> tuple[dict[str, Job], tuple[str, ...]]:
    if not wanted:
        return {}, ()
    arrays = list(dict.fromkeys(name.partition("_")[0] for name in wanted))
    notes: list[str] = []
    jobs: dict[str, Job] = {}
    queued = commands.squeue(jobs=arrays)
    if queued.value is None:
        notes.append(f"Slurm doesn't say how the jobs stand ({queued.reason}): this is what the run folders say")
    for each in queued.value or ():
        jobs[each.job] = Job(each.job, each.state, reason=each.reason, nodes=each.nodes)
    ended = [name for name in wanted if name not in jobs or not jobs[name].live]
    accounted = commands.sacct(jobs=list(dict.fromkeys(name.partition("_")[0] for name in ended))) if ended else None
    if accounted is not None and accounted.value is None:
        notes.append(f"Slurm's accounting doesn't answer ({accounted.reason}): how jobs ended may be missing")
    for row in (accounted.value or ()) if accounted is not None else ():
        known = jobs.get(row.job)
        late = row.state in commands.LIVE  # the database is seconds behind the controller
        if known is not None and (known.live or late):
            continue
        if late and queued.value is not None:
            continue  # and the controller, which does know, has forgotten the job
        jobs[row.job] = Job(
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

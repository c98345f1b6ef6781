"""Sending runs to SLURM: only what is neither done nor in the queue, however often and by how many it is asked for.

Whoever sends is alone with the root meanwhile. What an earlier call left half done is put right first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lab.dispatch.control import locate
from lab.dispatch.control.prepare import PlannedRun
from lab.dispatch.launchers.slurm.check import limits
from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.job.job import Job
from lab.dispatch.launchers.slurm.send import journal, sbatch
from lab.dispatch.launchers.slurm.send.journal import Record, Task
from lab.dispatch.launchers.slurm.send.packing import dependency, pack
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.records import RunFolder
from lab.refusals import RequestError

Planned = TypeVar("Planned", bound=PlannedRun)

_PATIENCE = 3.0  # seconds within which a job appears in the queue whose sbatch outlived the process that called it


@dataclasses.dataclass(frozen=True)
class Sent:
    """What a call sent.

    Attributes:
        records: of the calls of sbatch.
        runs: how many are in them.
        queued: runs left alone, as jobs sent earlier are going to do them.
    """

    records: tuple[Record, ...] = ()
    runs: int = 0
    queued: tuple[RunFolder, ...] = ()

    def describe(self) -> str:
        """One line for a person: `12 runs in 3 jobs (array 41), 5 in the queue already`."""
        parts = []
        if self.records:
            jobs = sum(len(record.tasks) for record in self.records)
            ids = [record.job or "?" for record in self.records]
            shown = ", ".join(ids if len(ids) < 6 else [*ids[:3], "…", ids[-1]])
            word = "array" if any(len(record.tasks) > 1 for record in self.records) else "job"
            what = f"{word} {shown}" if len(ids) == 1 else f"{word}s {shown}"
            parts.append(f"{_counted(self.runs, 'run')} in {_counted(jobs, 'job')} ({what})")
        if self.queued:
            parts.append(f"{_counted(len(self.queued), 'run')} in the queue already")
        return ", ".join(parts) or "nothing to send"


@dataclasses.dataclass(frozen=True)
class Living:
    """A job that is going to do something, or may.

    Attributes:
        job: Slurm's id.
        task: what it does.
        state: Slurm's word.
    """

    record: Record
    job: str
    task: Task
    state: str


def check(settings: Settings, runs: int, root: Path) -> None:
    """Refuse what the cluster would not take. Nothing is made, and nothing sent.

    Raises:
        RequestError: everything that stands in the way, each with what to do.
    """
    jobs = -(-runs // settings.runs_per_job)
    found = limits.look()
    if found.value is None:
        raise RequestError(found.reason or "no SLURM here")
    said = limits.refusals(settings, jobs, root, found.value)
    if not said and (refused := sbatch.trial(settings, min(jobs, found.value.max_array))) is not None:
        said = [f"SLURM would not take these jobs: {refused}"]
    if said:
        raise RequestError("\n     ".join(said))


def to_send(planned: Sequence[Planned], root: Path, *, retry_failed: bool = False) -> list[Planned]:
    """Those of the runs that would be sent now, as far as that can be told without making any."""
    by_identity = {run.identity: run for run in planned}
    found = locate.at_home(root, {identity: run.folder_name for identity, run in by_identity.items()})
    found |= locate.anywhere(root, [identity for identity in by_identity if identity not in found])
    known = _known(root) if found else {}
    left = []
    for identity, run in by_identity.items():
        if identity in found:
            status = found[identity].state.status
            wanted = status in ("queued", "preempted", "running", "lost") or (status == "failed" and retry_failed)
            if not wanted or _covered(found[identity].run, known):
                continue
        left.append(run)
    return left


def send(
    runs: Sequence[RunFolder],
    root: Path,
    sweep: str,
    settings: Settings,
    *,
    group: str | None = None,
    worker: tuple[str, ...] | None = None,
) -> Sent:
    """Send these runs, but for those that a job is going to do already, and return at once.

    Args:
        runs: whose folders stand; those that failed are tried once more.
        sweep: with which the records are kept.
        group: of what is sent, from `journal.new_group`; by default one of its own.
        worker: command of a worker process; None for the lab's.
    Raises:
        RequestError: the controller doesn't answer, or sbatch refuses; what was sent before that stays sent, and a
            repeated call sends the rest.
    """
    root = root.resolve()
    before = {run: run.state.status for run in runs}
    with journal.alone(root):
        known = living(settled(journal.records(root), root, worker))
        # What has changed since is no longer what was asked for: another call has sent it, or it has ended.
        same = [run for run, status in before.items() if run.state.status == status and not run.state.ended]
        mine = [RunFolder(root / run.name) for run in same]
        todo = [run for run in mine if not _covered(run, known)]
        queued = tuple(run for run in mine if _covered(run, known))
        config = commands.configuration()
        if config.value is None:
            raise RequestError(f"SLURM's controller doesn't answer: {config.reason}")
        per_array = int(config.value.get("MaxArraySize", 1001))
        group = group or journal.new_group()
        jobs = {name: each.job for name, each in known.items()}
        tasks = {each.job: each.task for each in known.values()}
        sent: list[Record] = []
        for each in pack(todo, per_job=settings.runs_per_job, per_array=per_array, pending=known):
            try:
                depends = dependency(each.on, jobs, tasks)
                record = journal.intend(root, sweep, group, each.tasks, settings.as_dict(), depends=depends)
                record = call(record, root, settings, worker)
            except RequestError as error:
                if not sent:
                    raise
                done = Sent(tuple(sent), sum(len(task.runs) for one in sent for task in one.tasks)).describe()
                raise RequestError(f"{error}; sent before that: {done}; repeat this to send the rest") from None
            sent.append(record)
            for job, task in zip(record.jobs, record.tasks, strict=True):
                tasks[job] = task
                jobs |= dict.fromkeys(task.runs, job)
    return Sent(tuple(sent), len(todo), queued)


def preview(names: Mapping[str, Sequence[str]], root: Path, sweep: str, settings: Settings, per_array: int) -> str:
    """The batch scripts with which runs would be sent.

    Args:
        names: run → the runs that it needs, of those that would be sent.
        per_array: jobs in an array at most.
    """
    runs = [RunFolder(root / name) for name in names]
    packs = pack(
        runs,
        per_job=settings.runs_per_job,
        per_array=per_array,
        needed=lambda run: [RunFolder(root / name) for name in names[run.name]],
    )
    shown = []
    for number, each in enumerate(packs, start=1):
        count = sum(len(task.runs) for task in each.tasks)
        head = f"# sbatch {number} of {len(packs)}: {_counted(count, 'run')} in {_counted(len(each.tasks), 'job')}"
        if each.on:
            head += f", after those that do {', '.join(sorted(each.on))}"
        place = journal.folder(root.resolve(), sweep) / "TOKEN"
        depends = "afterok:…" if each.on else None
        shown.append(f"{head}\n{sbatch.text(settings, f'lab-{sweep}-TOKEN', place, len(each.tasks), depends)}")
    return "\n".join(shown)


def living(records: Sequence[Record]) -> dict[str, Living]:
    """Run → the job that is going to do it, or is at it; the newest of several.

    Raises:
        RequestError: the controller doesn't answer.
    """
    by_name = {record.name: record for record in records if record.job is not None and record.void is None}
    found: dict[str, Living] = {}
    order = {name: number for number, name in enumerate(by_name)}
    for row in sorted(_queue(list(order)), key=lambda row: order[row.name]):
        record = by_name[row.name]
        if not row.live or row.job not in record.jobs:
            continue
        task = record.tasks[record.jobs.index(row.job)]
        found |= dict.fromkeys(task.runs, Living(record, row.job, task, row.state))
    return found


def settled(records: Sequence[Record], root: Path, worker: tuple[str, ...] | None = None) -> list[Record]:
    """The records, those of calls that were cut short put right: the queue says whether they came to anything.

    Raises:
        RequestError: the controller doesn't answer.
    """
    open_ones = [record for record in records if record.job is None and record.void is None]
    if not open_ones:
        return list(records)
    youngest = max(record.created for record in open_ones)
    ids: dict[str, str] = {}
    while True:
        names = [record.name for record in open_ones if record.name not in ids]
        ids |= {row.name: row.job.partition("_")[0] for row in _queue(names)}
        if len(ids) == len(open_ones) or time.time() - youngest > _PATIENCE:
            break
        time.sleep(0.3)
    names = [record.name for record in open_ones if record.name not in ids]
    if names:
        since = min(record.created for record in open_ones) - 600
        ids |= {row.name: row.job.partition("_")[0] for row in commands.sacct(names=names, since=since).value or ()}
    mended = {}
    for record in open_ones:
        if record.name in ids:
            sbatch.mend(record.folder, ids[record.name], jobs_of(record, root, worker))
            mended[record.path] = record.sent(ids[record.name])
        else:
            mended[record.path] = record.given_up("whoever sent it was cut short before SLURM had it")
    return [mended.get(record.path, record) for record in records]


def call(record: Record, root: Path, settings: Settings, worker: tuple[str, ...] | None) -> Record:
    """Send what a record says, and write down what became of it.

    Raises:
        RequestError: sbatch refused it.
    """
    try:
        jobs = jobs_of(record, root, worker)
        return record.sent(sbatch.call(settings, record.name, record.folder, jobs, record.depends))
    except RequestError as error:
        (found,) = settled([record], root, worker)  # a controller that is slow to answer may have taken it
        if found.job is None:
            found.given_up(str(error))
            raise
        return found


def jobs_of(record: Record, root: Path, worker: tuple[str, ...] | None) -> list[Any]:
    """What submitit is to pickle for each task of a record."""
    if record.kind == "next":
        from lab.dispatch.launchers.slurm.send.next_stage import NextStage

        return [NextStage(str(record.path), str(root), worker)]
    return [Job(str(record.path), index, str(root), worker) for index in range(len(record.tasks))]


def _known(root: Path) -> dict[str, Living]:
    """As `living`; nothing where SLURM can't be asked."""
    with contextlib.suppress(RequestError):
        return living(journal.records(root))
    return {}


def _covered(run: RunFolder, known: Mapping[str, Living]) -> bool:
    """Whether a living job is going to do a run. One that failed is done again only by a job that was sent for that."""
    found = known.get(run.name)
    if found is None:
        return False
    state = run.state
    return state.status != "failed" or found.task.retry.get(run.name) == state.attempts


def _queue(names: Sequence[str]) -> list[commands.Queued]:
    if not names:
        return []
    reply = commands.squeue(names=names)
    if reply.value is None:
        raise RequestError(f"SLURM's controller doesn't answer: {reply.reason}; nothing was sent")
    return reply.value


def _counted(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count:,} {what}s"

"""Sending runs to SLURM: only what is neither done nor in the queue, however often and by how many it is asked for.

The process that sends is alone with the root meanwhile. What an earlier call left half done is put right first.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.dispatch.launchers.slurm.check import limits
from lab.dispatch.launchers.slurm.client import cluster as clusters
from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.job.job import RunsJob
from lab.dispatch.launchers.slurm.send import journal, sbatch
from lab.dispatch.launchers.slurm.send.packing import batches, dependency
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.records import RunFolder, SubmissionRecord, SubmittedTask, journal_folder
from lab.refusals import Refusal, RequestError
from lab.units import plural

_PATIENCE = 3.0  # seconds within which a job appears in the queue whose sbatch outlived the process that called it


@dataclasses.dataclass(frozen=True)
class SentJobs:
    """What a call sent.

    Attributes:
        records: of the calls of sbatch.
        runs: how many are in them.
        queued: runs left alone, as jobs sent earlier are going to do them.
    """

    records: tuple[SubmissionRecord, ...] = ()
    runs: int = 0
    queued: tuple[RunFolder, ...] = ()

    def describe(self) -> str:
        """One line for a person: `12 runs in 3 jobs (array 41), 5 in the queue already`."""
        parts = []
        if self.records:
            jobs = sum(len(record.tasks) for record in self.records)
            ids = [record.job or "?" for record in self.records]
            shown = ", ".join(ids if len(ids) < 6 else [*ids[:3], "…", ids[-1]])
            kind = "array" if any(len(record.tasks) > 1 for record in self.records) else "job"
            kind += "" if len(ids) == 1 else "s"
            parts.append(f"{plural(self.runs, 'run')} in {plural(jobs, 'job')} ({kind} {shown})")
        if self.queued:
            parts.append(f"{plural(len(self.queued), 'run')} in the queue already")
        return ", ".join(parts) or "nothing to send"


@dataclasses.dataclass(frozen=True)
class Living:
    """A job that is going to do something, or may: Slurm's id, and what it does."""

    record: SubmissionRecord
    job: str
    task: SubmittedTask


def check(settings: Settings, runs: int, root: Path) -> None:
    """Refuse what the cluster would not take. Nothing is made, and nothing sent.

    Raises:
        RequestError: everything that stands in the way, each with what to do.
    """
    jobs = -(-runs // settings.runs_per_job)
    cluster = clusters.read_cluster()
    refusals = limits.refusals(settings, jobs, root, cluster)
    if not refusals and (reason := sbatch.trial(settings, min(jobs, cluster.max_array))) is not None:
        refusals = [Refusal(f"SLURM would not take these jobs: {reason}", "unavailable")]
    if refusals:
        raise RequestError(*refusals)


def send(
    runs: Sequence[RunFolder],
    root: Path,
    sweep: str,
    settings: Settings,
    *,
    group: str | None = None,
    worker: tuple[str, ...] | None = None,
) -> SentJobs:
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
    with journal.lock(root):
        living_jobs = living(settled(journal.records(root)))
        # What has changed since is no longer what was asked for: another call has sent it, or it has ended.
        same = [run for run, status in before.items() if run.state.status == status and not run.state.ended]
        open_runs = [RunFolder(root / run.name) for run in same]
        todo = [run for run in open_runs if not is_covered(run, living_jobs)]
        queued = tuple(run for run in open_runs if is_covered(run, living_jobs))
        per_array = clusters.max_array(clusters.require(commands.configuration()))
        group = group or journal.new_group()
        jobs = {name: job.job for name, job in living_jobs.items()}
        tasks = {job.job: job.task for job in living_jobs.values()}
        sent: list[SubmissionRecord] = []
        for batch in batches(todo, per_job=settings.runs_per_job, per_array=per_array, pending=living_jobs):
            try:
                depends = dependency(batch.waits_for, jobs, tasks)
                record = journal.add(root, sweep, group, batch.tasks, settings.as_dict(), depends=depends)
                content = [RunsJob(str(record.path), index, str(root), worker) for index in range(len(batch.tasks))]
                record = call(record, settings, content)
            except RequestError as error:
                if not sent:
                    raise
                done = SentJobs(tuple(sent), sum(len(task.runs) for one in sent for task in one.tasks)).describe()
                fix = f"sent before that: {done}; repeat this to send the rest"
                raise RequestError(dataclasses.replace(error.refusal, fix=fix)) from None
            sent.append(record)
            for job, task in zip(record.jobs, record.tasks, strict=True):
                tasks[job] = task
                jobs |= dict.fromkeys(task.runs, job)
    return SentJobs(tuple(sent), len(todo), queued)


def preview(needs: Mapping[str, Sequence[str]], root: Path, sweep: str, settings: Settings, per_array: int) -> str:
    """The batch scripts with which runs would be sent.

    Args:
        needs: run → the runs that it needs, of those that would be sent.
        per_array: jobs in an array at most.
    """
    runs = [RunFolder(root / name) for name in needs]
    array = batches(runs, per_job=settings.runs_per_job, per_array=per_array, needs=lambda run: needs[run.name])
    folder = journal_folder(root.resolve(), sweep) / "TOKEN"
    scripts = []
    for number, batch in enumerate(array, start=1):
        after = f", after those that do {', '.join(sorted(batch.waits_for))}" if batch.waits_for else ""
        what = f"{plural(batch.count, 'run')} in {plural(len(batch.tasks), 'job')}"
        depends = "afterok:…" if batch.waits_for else None
        script = sbatch.text(settings, f"lab-{sweep}-TOKEN", folder, len(batch.tasks), depends)
        scripts.append(f"# sbatch {number} of {len(array)}: {what}{after}\n{script}")
    return "\n".join(scripts)


def living(records: Sequence[SubmissionRecord]) -> dict[str, Living]:
    """Run → the job that is going to do it, or is at it; the newest of several.

    Raises:
        RequestError: the controller doesn't answer.
    """
    by_name = {record.name: record for record in records if record.job is not None and record.void is None}
    jobs: dict[str, Living] = {}
    order = {name: number for number, name in enumerate(by_name)}
    for row in sorted(_queue(list(order)), key=lambda row: order[row.name]):
        record = by_name[row.name]
        if row.is_live and row.job in record.jobs:
            task = record.tasks[record.jobs.index(row.job)]
            jobs |= dict.fromkeys(task.runs, Living(record, row.job, task))
    return jobs


def settled(records: Sequence[SubmissionRecord]) -> list[SubmissionRecord]:
    """The records, those of calls that were cut short put right: the queue says whether they came to anything.

    Raises:
        RequestError: the controller doesn't answer.
    """
    unsettled = [record for record in records if record.job is None and record.void is None]
    if not unsettled:
        return list(records)
    youngest = max(record.created for record in unsettled)
    ids: dict[str, str] = {}
    while True:
        names = [record.name for record in unsettled if record.name not in ids]
        ids |= {row.name: row.job.partition("_")[0] for row in _queue(names)}
        if len(ids) == len(unsettled) or time.time() - youngest > _PATIENCE:
            break
        time.sleep(0.3)
    names = [record.name for record in unsettled if record.name not in ids]
    if names:
        since = min(record.created for record in unsettled) - 600
        ids |= {row.name: row.job.partition("_")[0] for row in commands.sacct(names=names, since=since).value or ()}
    mended = {}
    for record in unsettled:
        if record.name in ids:
            sbatch.mend(record.folder, ids[record.name])
            mended[record.path] = journal.mark_sent(record, ids[record.name])
        else:
            mended[record.path] = journal.mark_void(record, "its submission was cut short before SLURM had it")
    return [mended.get(record.path, record) for record in records]


def call(record: SubmissionRecord, settings: Settings, jobs: Sequence[sbatch.Job]) -> SubmissionRecord:
    """Send what a record says, and write down what became of it.

    Args:
        jobs: what submitit is to pickle for each task.
    Raises:
        RequestError: sbatch refused it.
    """
    try:
        return journal.mark_sent(record, sbatch.call(settings, record.name, record.folder, jobs, record.depends))
    except RequestError as error:
        (record,) = settled([record])  # a controller that is slow to answer may have taken it
        if record.job is None:
            journal.mark_void(record, str(error))
            raise
        return record


def is_covered(run: RunFolder, jobs: Mapping[str, Living]) -> bool:
    """Whether a living job is going to do a run. One that failed is done again only by a job that was sent for that."""
    job = jobs.get(run.name)
    if job is None:
        return False
    state = run.state
    return state.status != "failed" or job.task.retry.get(run.name) == state.attempts


def _queue(names: Sequence[str]) -> list[commands.QueueRow]:
    return clusters.require(commands.squeue(names=names)) if names else []

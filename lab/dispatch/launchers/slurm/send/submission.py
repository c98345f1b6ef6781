"""Sends runs to Slurm, except those that are finished or in the queue. Safe to repeat and to call concurrently.

The sending process holds a lock on the root. It first completes what an interrupted call left half done.
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
from lab.dispatch.launchers.slurm.send.packing import batches, dependency, resolved
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.records import RunFolder, SubmissionRecord, SubmittedTask, journal_folder
from lab.refusals import Refusal, RequestError
from lab.units import plural

_QUEUE_DELAY = 3.0  # seconds until a job is in the queue whose sbatch outlived the process that called it


@dataclasses.dataclass(frozen=True)
class SentJobs:
    """The result of `send`.

    Attributes:
        records: one for each call of sbatch.
        n_runs: number of runs in them.
        queued_runs: runs that weren't sent because they are in the queue already.
    """

    records: tuple[SubmissionRecord, ...] = ()
    n_runs: int = 0
    queued_runs: tuple[RunFolder, ...] = ()

    def describe(self) -> str:
        """One line for a person: `12 runs in 3 jobs (array 41), 5 runs in the queue already`."""
        parts = []
        if self.records:
            jobs = sum(len(record.tasks) for record in self.records)
            ids = [record.job or "?" for record in self.records]
            id_text = ", ".join(ids if len(ids) < 6 else [*ids[:3], "…", ids[-1]])
            kind = "array" if any(len(record.tasks) > 1 for record in self.records) else "job"
            kind += "" if len(ids) == 1 else "s"
            parts.append(f"{plural(self.n_runs, 'run')} in {plural(jobs, 'job')} ({kind} {id_text})")
        if self.queued_runs:
            parts.append(f"{plural(len(self.queued_runs), 'run')} in the queue already")
        return ", ".join(parts) or "nothing to send"


@dataclasses.dataclass(frozen=True)
class LiveJob:
    """A job that hasn't ended, or that will run again.

    Attributes:
        record: of its submission.
        job: Slurm's id: `12`, or `12_3` for a task of an array.
        task: its runs.
    """

    record: SubmissionRecord
    job: str
    task: SubmittedTask


def check(settings: Settings, runs: int, root: Path) -> None:
    """Refuse jobs that the cluster would not run. Creates and sends nothing.

    Args:
        settings: of the jobs.
        runs: number of runs.
        root: the folder that holds all runs.
    Raises:
        RequestError: lists every problem, each with its fix.
    """
    jobs = -(-runs // settings.per_job)
    cluster = clusters.read_cluster()
    refusals = limits.refusals(settings, jobs, root, cluster)
    if not refusals and (reason := sbatch.dry_run(settings, min(jobs, cluster.max_array))) is not None:
        refusals = [Refusal(f"SLURM would not accept these jobs: {reason}", "unavailable")]
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
    """Send these runs, except those that are in the queue already, and return at once.

    Args:
        runs: the runs, whose folders must exist. Failed runs are tried once more.
        root: the folder that holds all runs.
        sweep: the sweep whose folder holds the records.
        settings: of the jobs. `auto` packs the runs that are given, whatever is in the queue already.
        group: of this submission, from `journal.new_group`; by default a new one.
        worker: command of a worker process; None for the lab's own.
    Raises:
        RequestError: the controller doesn't answer, or sbatch refuses. Jobs sent before that stay in the queue, and a
            repeated call sends the rest.
    """
    root, settings = root.resolve(), resolved(settings, runs)
    statuses = {run: run.state.status for run in runs}
    with journal.lock(root):
        jobs_by_run = live_jobs(resolve_records(journal.records(root)))
        # While this call waited for the lock, another call may have sent a run, or the run may have ended.
        unchanged_runs = [run for run, status in statuses.items() if run.state.status == status and not run.state.ended]
        open_runs = [RunFolder(root / run.name) for run in unchanged_runs]
        runs_to_send = [run for run in open_runs if not is_queued(run, jobs_by_run)]
        queued_runs = tuple(run for run in open_runs if is_queued(run, jobs_by_run))
        per_array = clusters.max_array(clusters.require(commands.configuration()))
        group = group or journal.new_group()
        jobs = {name: job.job for name, job in jobs_by_run.items()}
        tasks = {job.job: job.task for job in jobs_by_run.values()}
        records: list[SubmissionRecord] = []
        for batch in batches(runs_to_send, per_job=settings.per_job, per_array=per_array, pending=jobs_by_run):
            try:
                depends = dependency(batch.waits_for, jobs, tasks)
                record = journal.add(root, sweep, group, batch.tasks, settings.as_dict(), depends=depends)
                job_calls = [RunsJob(str(record.path), index, str(root), worker) for index in range(len(batch.tasks))]
                record = send_record(record, settings, job_calls)
            except RequestError as error:
                if not records:
                    raise
                n_runs = sum(len(task.runs) for record in records for task in record.tasks)
                sent_before = SentJobs(tuple(records), n_runs).describe()
                fix = f"sent before that: {sent_before}; repeat this to send the rest"
                raise RequestError(dataclasses.replace(error.refusal, fix=fix)) from None
            records.append(record)
            for job, task in zip(record.jobs, record.tasks, strict=True):
                tasks[job] = task
                jobs |= dict.fromkeys(task.runs, job)
    return SentJobs(tuple(records), len(runs_to_send), queued_runs)


def preview(needs: Mapping[str, Sequence[str]], root: Path, sweep: str, settings: Settings, per_array: int) -> str:
    """The batch scripts that would be sent.

    Args:
        needs: name of each run that would be sent → names of the runs that it needs.
        root: the folder that holds all runs.
        sweep: the runs' sweep.
        settings: of the jobs.
        per_array: most jobs in an array.
    """
    runs = [RunFolder(root / name) for name in needs]
    batch_list = batches(runs, per_job=settings.per_job, per_array=per_array, needs=lambda run: needs[run.name])
    folder = journal_folder(root.resolve(), sweep) / "TOKEN"
    scripts = []
    for number, batch in enumerate(batch_list, start=1):
        after = f", after the jobs of {', '.join(sorted(batch.waits_for))}" if batch.waits_for else ""
        content = f"{plural(batch.n_runs, 'run')} in {plural(len(batch.tasks), 'job')}"
        depends = "afterok:…" if batch.waits_for else None
        script = sbatch.text(settings, f"lab-{sweep}-TOKEN", folder, len(batch.tasks), depends)
        scripts.append(f"# sbatch {number} of {len(batch_list)}: {content}{after}\n{script}")
    return "\n".join(scripts)


def live_jobs(records: Sequence[SubmissionRecord]) -> dict[str, LiveJob]:
    """Name of each run in the queue → its job; the newest of several.

    Raises:
        RequestError: the controller doesn't answer.
    """
    by_name = {record.name: record for record in records if record.job is not None and record.void is None}
    jobs: dict[str, LiveJob] = {}
    order = {name: number for number, name in enumerate(by_name)}
    for row in sorted(_queue(list(order)), key=lambda row: order[row.name]):
        record = by_name[row.name]
        if row.is_live and row.job in record.jobs:
            task = record.tasks[record.jobs.index(row.job)]
            jobs |= dict.fromkeys(task.runs, LiveJob(record, row.job, task))
    return jobs


def resolve_records(records: Sequence[SubmissionRecord]) -> list[SubmissionRecord]:
    """The records, after each interrupted call is marked as sent or void, depending on whether its job exists.

    Raises:
        RequestError: the controller doesn't answer.
    """
    unresolved = [record for record in records if record.job is None and record.void is None]
    if not unresolved:
        return list(records)
    youngest = max(record.created for record in unresolved)
    ids: dict[str, str] = {}
    while True:
        names = [record.name for record in unresolved if record.name not in ids]
        ids |= {row.name: row.job.partition("_")[0] for row in _queue(names)}
        if len(ids) == len(unresolved) or time.time() - youngest > _QUEUE_DELAY:
            break
        time.sleep(0.3)
    names = [record.name for record in unresolved if record.name not in ids]
    if names:
        since = min(record.created for record in unresolved) - 600
        ids |= {row.name: row.job.partition("_")[0] for row in commands.sacct(names=names, since=since).value or ()}
    resolved: dict[Path, SubmissionRecord] = {}
    for record in unresolved:
        if record.name in ids:
            sbatch.restore_pickles(record.folder, ids[record.name])
            resolved[record.path] = journal.mark_sent(record, ids[record.name])
        else:
            resolved[record.path] = journal.mark_void(record, "its submission was interrupted before SLURM had it")
    return [resolved.get(record.path, record) for record in records]


def send_record(record: SubmissionRecord, settings: Settings, jobs: Sequence[sbatch.Job]) -> SubmissionRecord:
    """Call sbatch for a record. Returns the record with the job's id.

    Args:
        record: the submission.
        settings: of its jobs.
        jobs: the callable of each task, which submitit pickles.
    Raises:
        RequestError: sbatch refused the jobs; the record is marked as void.
    """
    try:
        return journal.mark_sent(record, sbatch.call(settings, record.name, record.folder, jobs, record.depends))
    except RequestError as error:
        (record,) = resolve_records([record])  # a slow controller may have accepted the jobs although sbatch failed
        if record.job is None:
            journal.mark_void(record, str(error))
            raise
        return record


def is_queued(run: RunFolder, jobs: Mapping[str, LiveJob]) -> bool:
    """Whether a job in the queue will run a run. A failed run counts only if the job was sent to retry it."""
    job = jobs.get(run.name)
    if job is None:
        return False
    state = run.state
    return state.status != "failed" or job.task.retry.get(run.name) == state.attempts


def _queue(names: Sequence[str]) -> list[commands.QueueRow]:
    return clusters.require(commands.squeue(names=names)) if names else []

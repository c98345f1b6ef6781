"""Packs runs into jobs and jobs into arrays, and makes jobs depend on the jobs of the runs that they need."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from lab.dispatch.control import dependencies
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.records import BrokenRecord, RunFolder, SubmittedTask

T = TypeVar("T")

FLOPS_PER_JOB = 2e13
"""The training FLOPs that `runs_per_job: auto` puts into a job: an hour on one core at 5 GFLOP/s, minutes on most
machines. The start of a job and of its worker, which takes seconds, is then a small part of it."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """One array of jobs, or a single job, that one call of sbatch sends.

    Attributes:
        tasks: the runs of each job.
        waits_for: names of the unfinished runs that its runs need; the same for all of its runs.
    """

    tasks: tuple[SubmittedTask, ...]
    waits_for: frozenset[str] = frozenset()

    @property
    def n_runs(self) -> int:
        """Number of runs in the batch."""
        return sum(len(task.runs) for task in self.tasks)


def resolved(settings: Settings, runs: Sequence[RunFolder], flops: Mapping[str, float] | None = None) -> Settings:
    """Settings with a number for `runs_per_job`, which is that of `auto` for these runs.

    `auto` makes as few jobs as hold `FLOPS_PER_JOB` each, of equal numbers of runs, by the longest of the runs. If the
    FLOPs of a run aren't known, or several processes train it, each run has a job of its own.

    Args:
        settings: of the jobs.
        runs: the runs to send.
        flops: name of a run → its training FLOPs, for runs whose folders may not exist.
    """
    if settings.runs_per_job != "auto":
        return settings
    known = flops or {}
    flops_of_runs = [known[run.name] if run.name in known else _flops_of(run) for run in runs]
    largest = max((value for value in flops_of_runs if value), default=0.0)
    if not largest or settings.processes > 1 or not all(flops_of_runs):
        return dataclasses.replace(settings, runs_per_job=settings.side_by_side)
    most = max(settings.side_by_side, int(FLOPS_PER_JOB // largest), 1)
    jobs = -(-len(runs) // most)
    return dataclasses.replace(settings, runs_per_job=max(settings.side_by_side, -(-len(runs) // jobs)))


def needs_of(run: RunFolder) -> list[str]:
    """Names of the runs that a run needs, from its run.json."""
    needs = [dependencies.find(run, need) for need in dependencies.of(run)]
    return [need.name for need in needs if need is not None]


def batches(
    runs: Sequence[RunFolder],
    *,
    per_job: int,
    per_array: int,
    pending: Collection[str] = (),
    needs: Callable[[RunFolder], Sequence[str]] = needs_of,
) -> list[Batch]:
    """Pack runs into arrays of jobs. A run comes after the runs that it needs.

    Args:
        runs: the runs to send, in order.
        per_job: most runs in a job.
        per_array: most jobs in an array.
        pending: names of runs that are in the queue already.
        needs: run → names of the runs that it needs.
    """
    names = {run.name for run in runs}
    needs_by_run = {run.name: needs(run) for run in runs}
    levels: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in levels:
            levels[name] = 0  # ends the recursion in a cycle, although a plan has none
            levels[name] = 1 + max((level(need) for need in needs_by_run[name] if need in names), default=-1)
        return levels[name]

    groups: dict[tuple[int, frozenset[str]], list[RunFolder]] = {}
    for run in runs:
        waits_for = frozenset(need for need in needs_by_run[run.name] if need in names or need in pending)
        groups.setdefault((level(run.name), waits_for), []).append(run)
    result: list[Batch] = []
    for (_, waits_for), members in sorted(groups.items(), key=lambda item: item[0][0]):
        tasks = map(_task, _chunks(members, per_job))
        result += [Batch(tuple(array), waits_for) for array in _chunks(list(tasks), per_array)]
    return result


def dependency(waits_for: frozenset[str], jobs: Mapping[str, str], tasks: Mapping[str, SubmittedTask]) -> str | None:
    """The dependency of jobs that need the same runs, in sbatch's syntax; None without one.

    `afterok` for a job that holds needed runs only: if one of them fails, Slurm cancels the jobs that need it.
    `afterany` for a job that holds other runs too: its exit code says nothing about the needed runs, and the dependent
    job checks them itself.

    Args:
        waits_for: names of the needed runs.
        jobs: run → id of its job.
        tasks: id of a job → its runs.
    """
    conditions = []
    for job in dict.fromkeys(jobs[name] for name in sorted(waits_for) if name in jobs):
        conditions.append(f"{'afterok' if set(tasks[job].runs) <= waits_for else 'afterany'}:{job}")
    return ",".join(conditions) or None


def _flops_of(run: RunFolder) -> float | None:
    """Training FLOPs of a run from its folder; None if they aren't recorded."""
    try:
        workload = run.record.workload
        return None if workload is None else workload.flops_per_token * float(run.config["train"]["tokens"])
    except (BrokenRecord, KeyError, TypeError, ValueError):
        return None


def _task(runs: Sequence[RunFolder]) -> SubmittedTask:
    states = {run.name: run.state for run in runs}
    return SubmittedTask(
        tuple(states), {name: state.attempts for name, state in states.items() if state.status == "failed"}
    )


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]

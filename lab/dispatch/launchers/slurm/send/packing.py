"""Which runs share a job, which jobs an array, and which wait for which."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from lab.dispatch.control import dependencies
from lab.dispatch.launchers.slurm.send.journal import Task
from lab.records import RunFolder


@dataclasses.dataclass(frozen=True)
class Pack:
    """One array of jobs, or one job, to be sent with one call of sbatch.

    Attributes:
        tasks: what each job does.
        on: what all of them wait for: the runs that their runs need and that aren't done.
    """

    tasks: tuple[Task, ...]
    on: frozenset[str] = frozenset()


def pack(
    runs: Sequence[RunFolder],
    *,
    per_job: int,
    per_array: int,
    pending: Mapping[str, object] | None = None,
    needed: Callable[[RunFolder], Sequence[RunFolder]] | None = None,
) -> list[Pack]:
    """Runs as arrays of jobs, those that others need first.

    Args:
        runs: what is to be sent, in order.
        per_job: most runs in a job.
        per_array: most jobs in an array.
        pending: names of runs that jobs sent earlier are going to do.
        needed: the runs that a run needs; by default what its run.json says.
    """
    needed = needed or _needed
    names = {run.name for run in runs}
    waits = {run.name: [each.name for each in needed(run)] for run in runs}
    going = names | set(pending or ())
    levels: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in levels:
            levels[name] = 0  # a circle can't be planned; if one could, it would end here
            levels[name] = 1 + max((level(each) for each in waits[name] if each in names), default=-1)
        return levels[name]

    groups: dict[tuple[int, frozenset[str]], list[RunFolder]] = {}
    for run in runs:
        on = frozenset(name for name in waits[run.name] if name in going)
        groups.setdefault((level(run.name), on), []).append(run)
    packs = []
    for (_, on), members in sorted(groups.items(), key=lambda item: item[0][0]):
        tasks = [_task(members[start : start + per_job]) for start in range(0, len(members), per_job)]
        packs += [Pack(tuple(tasks[start : start + per_array]), on) for start in range(0, len(tasks), per_array)]
    return packs


def dependency(on: frozenset[str], jobs: Mapping[str, str], tasks: Mapping[str, Task]) -> str | None:
    """What sbatch is told that jobs wait for, all of which need the runs `on`.

    `afterok` where a job holds nothing but needed runs: should one fail, those that need it are cancelled with it.
    `afterany` for a job that holds others as well: their failures say nothing, and the waiting job looks for itself.

    Args:
        on: names of needed runs.
        jobs: run → id of the job that does it.
        tasks: id of a job → what it does.
    """
    words = []
    for job in dict.fromkeys(jobs[name] for name in sorted(on) if name in jobs):
        words.append(f"{'afterok' if set(tasks[job].runs) <= on else 'afterany'}:{job}")
    return ",".join(words) or None


def _task(runs: Sequence[RunFolder]) -> Task:
    states = {run.name: run.state for run in runs}
    retry = {name: state.attempts for name, state in states.items() if state.status == "failed"}
    return Task(tuple(states), retry)


def _needed(run: RunFolder) -> list[RunFolder]:
    found = [dependencies.find(run, need) for need in dependencies.of(run)]
    return [each for each in found if each is not None]

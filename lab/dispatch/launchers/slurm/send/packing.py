"""Which runs share a job, which jobs an array, and which wait for which."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from lab.dispatch.control import dependencies
from lab.records import RunFolder, SubmittedTask

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Batch:
    """One array of jobs, or one job, to be sent with one call of sbatch.

    Attributes:
        tasks: what each job does.
        waits_for: the runs that its runs need and that aren't done; the same for all its runs.
    """

    tasks: tuple[SubmittedTask, ...]
    waits_for: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        """Runs in it."""
        return sum(len(task.runs) for task in self.tasks)


def needed_by(run: RunFolder) -> list[str]:
    """Names of the runs that a run needs, by its run.json."""
    needed = [dependencies.find(run, need) for need in dependencies.of(run)]
    return [other.name for other in needed if other is not None]


def batches(
    runs: Sequence[RunFolder],
    *,
    per_job: int,
    per_array: int,
    pending: Collection[str] = (),
    needs: Callable[[RunFolder], Sequence[str]] = needed_by,
) -> list[Batch]:
    """Runs as arrays of jobs, those that others need first.

    Args:
        runs: what is to be sent, in order.
        per_job: most runs in a job.
        per_array: most jobs in an array.
        pending: names of runs that jobs sent earlier are going to do.
        needs: names of the runs that a run needs.
    """
    names = {run.name for run in runs}
    needed = {run.name: needs(run) for run in runs}
    levels: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in levels:
            levels[name] = 0  # a circle can't be planned; if one could, it would end here
            levels[name] = 1 + max((level(other) for other in needed[name] if other in names), default=-1)
        return levels[name]

    groups: dict[tuple[int, frozenset[str]], list[RunFolder]] = {}
    for run in runs:
        waits_for = frozenset(name for name in needed[run.name] if name in names or name in pending)
        groups.setdefault((level(run.name), waits_for), []).append(run)
    result = []
    for (_, waits_for), members in sorted(groups.items(), key=lambda item: item[0][0]):
        tasks = map(_task, _chunks(members, per_job))
        result += [Batch(tuple(array), waits_for) for array in _chunks(list(tasks), per_array)]
    return result


def dependency(waits_for: frozenset[str], jobs: Mapping[str, str], tasks: Mapping[str, SubmittedTask]) -> str | None:
    """What sbatch is told that jobs wait for, all of which need the same runs.

    `afterok` where a job holds nothing but needed runs: should one fail, those that need it are cancelled with it.
    `afterany` for a job that holds others as well: their failures say nothing, and the waiting job looks for itself.

    Args:
        waits_for: names of needed runs.
        jobs: run → id of the job that does it.
        tasks: id of a job → what it does.
    """
    conditions = []
    for job in dict.fromkeys(jobs[name] for name in sorted(waits_for) if name in jobs):
        conditions.append(f"{'afterok' if set(tasks[job].runs) <= waits_for else 'afterany'}:{job}")
    return ",".join(conditions) or None


def _task(runs: Sequence[RunFolder]) -> SubmittedTask:
    states = {run.name: run.state for run in runs}
    return SubmittedTask(
        tuple(states), {name: state.attempts for name, state in states.items() if state.status == "failed"}
    )


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]

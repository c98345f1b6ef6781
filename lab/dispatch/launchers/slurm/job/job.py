"""What a job does on its node: its runs, one after the other or side by side, until they are done or its time is up.

submitit starts it from a pickle that holds a class by its module's name, and where the record of the submission is: no
model, no configuration. Workers of the local launcher claim the runs and read their frozen configurations.

A job that is told to stop has its workers checkpoint, and then goes back into the queue by itself. There is this one
path for preemption and time limit: Lightning's requeueing is off, and submitit's handlers are replaced. A job that is
killed without a word is put back by Slurm. Either way the next start goes on where the folders stand.

A later version of the lab may not have the class under that name. Jobs that are queued while the lab is upgraded then
end at once with an error, before they have touched a run, and `lab submit` sends their runs again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.dispatch.control import dependencies
from lab.dispatch.launchers.local.scheduler import WORKER, LocalSummary, run_local
from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.job import allocation
from lab.dispatch.launchers.slurm.job.circuit_breaker import CircuitBreaker
from lab.dispatch.launchers.slurm.send import journal
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.dispatch.worker.attempt import Stop
from lab.dispatch.worker.claim import Claim, holder
from lab.records import BrokenRecord, RunFolder, StoppedSubmission, SubmissionRecord

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

RETRIES = 1  # times that a job tries a run again whose worker was killed
SILENT = 10.0  # seconds without a sign of life after which a holder on another host is likely gone
_LOOK_AGAIN = 2.0


@dataclasses.dataclass(frozen=True)
class RunsJob:
    """One job, or one task of an array, as submitit pickles it.

    Attributes:
        record: path of the file that says what was sent.
        index: of this task in it.
        root: of the runs.
        worker: command of a worker process; None for the lab's.
    """

    record: str
    index: int
    root: str
    worker: tuple[str, ...] | None = None

    def __call__(self) -> None:
        """Do it, and end the process: with 0 once nothing is left to do, or the job will start again; else with 1."""
        stop = Stop()
        allocation.listen(stop)
        try:
            code = self.run(stop)
        finally:
            sys.stdout.flush()
        # Not a return: submitit would write a result file for each job, and nobody reads them.
        sys.exit(code)

    def checkpoint(self) -> DelayedSubmission:
        """For submitit: what to start next time, should it be told to stop before this has put up its handlers."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def run(self, stop: Stop) -> int:
        """As `__call__`, with the exit code returned; `stop` stops it."""
        record = journal.read(Path(self.record))
        job = allocation.own_id()
        if record.void is not None or (record.job is not None and allocation.own_id(whole=True) != record.job):
            _say(f"job {job}: nothing to do: {record.void or f'job {record.job} does this'}")
            return 0
        settings = Settings.of(record.settings)
        if settings.processes == 1:
            return _Work(self, record, settings, stop, self.worker or WORKER).do()
        from lab.dispatch.distributed import process_group

        strategy = settings.strategy or "ddp"
        work = _Work(self, record, settings, stop, self.worker or process_group.command(strategy))
        return process_group.share(work.do, strategy, settings.cpus_per_task, stop)


class _Work:
    """The work of one task."""

    def __init__(
        self, job: RunsJob, record: SubmissionRecord, settings: Settings, stop: Stop, worker: Sequence[str]
    ) -> None:
        self._settings = settings
        self._record = record
        self._stop = stop
        self._job = allocation.own_id()
        self._root = Path(job.root)
        self._task = record.tasks[job.index]
        self._breaker = CircuitBreaker(record.path.parent / record.group)
        self._worker = worker
        self._stopped: StoppedSubmission | None = None
        self._retries: dict[RunFolder, int] = {}
        self._preempted: set[str] = set()

    def do(self) -> int:
        """All of it; the job's exit code."""
        runs = [run for run in map(self._folder, self._task.runs) if self._is_own(run)]
        _say(f"job {self._job} on {allocation.place()}: {len(runs)} of {len(self._task.runs)} runs to do")
        self._stopped = self._breaker.stopped()
        if self._stopped is None:
            _in_thread(lambda: self._run_all(runs))
        open_runs = [run for run in runs if _is_open(run)]
        for run in runs:
            _say(f"{run.name}: {run.state.status}" + (f": {run.state.reason}" if run.state.reason else ""))
        if self._stopped is not None:
            self._cancel_submission(self._stopped, open_runs)
            return 1
        self._block_dependants(runs)
        if self._stop() and open_runs:
            return self._requeue(open_runs)
        return 0 if all(run.state.ended for run in map(self._folder, self._task.runs)) else 1

    def _folder(self, name: str) -> RunFolder:
        return RunFolder(self._root / name)

    def _is_own(self, run: RunFolder) -> bool:
        """Whether a run is this job's to try: one that failed is only if that was asked for, and only once."""
        state = run.state
        return state.status != "failed" or self._task.retry.get(run.name) == state.attempts

    def _run_all(self, runs: Sequence[RunFolder]) -> None:
        """Run them, and again those that another round could bring on."""
        todo = list(runs)
        while todo and not self._stop():
            summary = run_local(
                todo,
                max_parallel=self._settings.side_by_side,
                threads=self._settings.threads,
                retry_failed=True,
                on_change=self._on_change,
                stop=self._stop,
                worker=self._worker,
            )
            self._preempted = {name for name, status in summary.outcomes.items() if status == "preempted"}
            for name, reason in summary.refusals.items():
                _say(f"{name}: refused: {reason}")
            todo = [] if self._stop() else [*self._killed(todo), *self._left_by_others(summary)]

    def _on_change(self, run: RunFolder) -> None:
        """A run has begun or ended: whether another one is begun depends on how those before it failed."""
        if self._stopped is None and run.state.status == "failed":
            self._stopped = self._breaker.record(run, self._settings.stop_after_same_failure)
        self._stopped = self._stopped or self._breaker.stopped()
        if self._stopped is not None:
            self._stop.request("the same error in other runs of the submission")

    def _killed(self, runs: Sequence[RunFolder]) -> list[RunFolder]:
        """Those whose worker was killed, or stopped by somebody else, and which this job may try again."""
        killed = []
        for run in runs:
            retries = self._retries.get(run, 0)
            interrupted = run.state.status in ("lost", "preempted", "running") and holder(run.path) is None
            if interrupted and retries < RETRIES:
                self._retries[run] = retries + 1
                killed.append(run)
        return killed

    def _left_by_others(self, summary: LocalSummary) -> list[RunFolder]:
        """Those of the runs held elsewhere whose holder turns out to be gone: its node was lost, and its claim is old.

        Waits for as long as that can't be told, and no longer: a holder that gives signs of life has the run in hand.
        """
        waiting = [self._folder(name) for name in summary.remote_runs]
        free: list[RunFolder] = []
        began = time.monotonic()
        while waiting and not self._stop():
            for run in list(waiting):
                held = holder(run.path)
                if held is None and dependencies.standing(run).status != "waits":
                    free.append(run)
                if held is None or (held.age < SILENT and time.monotonic() - began > SILENT):
                    _say(f"{run.name}: {'free now' if run in free else 'left to whoever holds it, or what it needs'}")
                    waiting.remove(run)
            if waiting:
                time.sleep(_LOOK_AGAIN)
        return free

    def _block_dependants(self, runs: Sequence[RunFolder]) -> None:
        """Say in the folders of runs that need one which failed here that they can't be run: Slurm drops their jobs."""
        broken = {run.name for run in runs if run.state.status in ("failed", "diverged", "blocked")}
        if not broken:
            return
        names = {name for record in journal.records(self._root) for task in record.tasks for name in task.runs}
        others = []
        for run in map(self._folder, sorted(names - broken)):
            with contextlib.suppress(BrokenRecord):
                if _is_open(run):
                    others.append(run)
        while blocked := self._block(others, broken):  # as those that need a blocked one are blocked too
            broken |= {run.name for run in blocked}
            others = [run for run in others if run not in blocked]

    def _block(self, others: Sequence[RunFolder], broken: set[str]) -> list[RunFolder]:
        """Block those of the queued runs that need a broken one: which those were."""
        blocked = []
        for run in others:
            if run.state.status == "queued" and any(need.run in broken for need in dependencies.of(run)):
                standing = dependencies.standing(run, others)
                if standing.status == "blocked" and dependencies.block(run, standing.reason or ""):
                    blocked.append(run)
        return blocked

    def _cancel_submission(self, stopped: StoppedSubmission, mine: Iterable[RunFolder]) -> None:
        """Take the rest of the submission out of the queue, and say why in the folders of its runs."""
        _say(f"called off: {stopped.cause}")
        group = [record for record in journal.records(self._root) if record.group == self._record.group]
        waiting = [record.job for record in group if record.job is not None and record.void is None]
        failed = commands.cancel(waiting, pending_only=True)
        if failed is not None:
            _say(f"the jobs that wait could not be cancelled ({failed}): they will do nothing")
        names = [name for record in group for task in record.tasks for name in task.runs]
        for run in dict.fromkeys([*mine, *map(self._folder, names)]):
            if run.state.status == "queued":
                note(run, f"not begun, as {stopped.cause}")
            elif run.state.status == "preempted":
                note(run, f"not gone on with, as {stopped.cause}")

    def _requeue(self, runs: Sequence[RunFolder]) -> int:
        """Put this job back into the queue, unless it is there already or a user ended it: the exit code."""
        reason = f"stopped by {self._stop.reason}"
        for run in runs:
            # A signal may have reached its worker too, which knows no more than the signal's name.
            if run.name in self._preempted and run.state.reason != reason:
                note(run, reason)
        why_not = allocation.requeue(allowed=self._settings.requeue)
        if why_not is None:
            _say(f"job {self._job}: back in the queue, with {len(runs)} runs to go on with")
            return 0
        _say(f"job {self._job}: not put back into the queue: {why_not}")
        for run in runs:
            note(run, f"{run.state.reason or 'not begun'}; its job was not put back into the queue: {why_not}")
        return 1


def note(run: RunFolder, reason: str) -> None:
    """Write why a run that nobody holds isn't going on: into its state, and into its log if it has begun."""
    claim = Claim.take(run.path)
    if claim is not None:
        with claim:
            state = run.state
            if state.status in ("queued", "preempted"):
                run.state = state.replace(reason=reason)
            if state.status == "preempted":
                with contextlib.suppress(OSError), open(run.path / "log.txt", "a", encoding="utf-8") as log:
                    log.write(f"{reason}\n")


def _in_thread(work: Callable[[], None]) -> None:
    """Do it in another thread: the launcher would take a second signal as an order to kill its workers."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, name="runs")
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # a wait without end would let no signal through
    if errors:
        raise errors[0]


def _is_open(run: RunFolder) -> bool:
    """Whether a later start of the job could bring it on."""
    return run.state.status in ("queued", "preempted", "running", "lost")


def _say(line: str) -> None:
    print(line, flush=True)

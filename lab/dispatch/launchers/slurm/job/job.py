"""What a job does on its node: it runs its runs, in sequence or side by side, until they are done or it must stop.

submitit starts a job from a pickle. The pickle holds the name of a class and the path of the submission's record, but
no model and no configuration. The job uses the local launcher, whose workers claim the runs and read their frozen
configurations.

On a stop signal the workers write checkpoints, and the job puts itself back into the queue. This is the only path for
preemption and time limits: Lightning's requeueing is off, and submitit's signal handlers are replaced. Slurm requeues a
job that is killed without a signal. Either way the next start continues from the run folders.

A later version of the lab may have renamed the class in the pickle. A job that was queued before such an upgrade fails
at once, before it has changed a run, and `lab submit` sends its runs again.
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
from lab.dispatch.process_clock import ProcessClock
from lab.dispatch.worker.attempt import Stop
from lab.dispatch.worker.claim import Claim, holder
from lab.records import BrokenRecord, RunFolder, StoppedSubmission, SubmissionRecord
from lab.training.progress.phase_clock import part
from lab.units import plural

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_RETRIES = 1  # of a run whose worker was killed, in one job
_HEARTBEAT_SECONDS = 10.0  # without a heartbeat for this long, a process on another host has probably ended
_POLL_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class RunsJob:
    """One job, or one task of an array, in the form that submitit pickles.

    Attributes:
        record: path of the submission's record.
        index: of this task in the record.
        root: the folder that holds all runs.
        worker: command of a worker process; None for the lab's own.
    """

    record: str
    index: int
    root: str
    worker: tuple[str, ...] | None = None

    def __call__(self) -> None:
        """Run the job and exit: with code 0 if all runs are done or the job will start again, else with 1."""
        stop = Stop()
        allocation.handle_signals(stop)
        try:
            code = self.run(stop)
        finally:
            sys.stdout.flush()
        # If this returned, submitit would write a result file for each job, which nothing reads.
        sys.exit(code)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit requeues, if a stop signal comes before the handlers of this job are installed."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def run(self, stop: Stop) -> int:
        """Run the job. Returns the exit code of `__call__`."""
        clock = ProcessClock("job")
        clock.enter("other work")
        record = journal.read(Path(self.record))
        job = allocation.job_id()
        if record.void is not None or (record.job is not None and allocation.submission_id() != record.job):
            _print(f"job {job}: nothing to do: {record.void or f'job {record.job} does this'}")
            return 0
        settings = Settings.of(record.settings)
        if settings.processes == 1:
            try:
                with clock.running():
                    return _TaskRunner(self, record, settings, stop, self.worker or WORKER).run()
            finally:
                clock.write(record.path.parents[1])
        from lab.dispatch.distributed import process_group

        strategy = settings.strategy or "ddp"
        runner = _TaskRunner(self, record, settings, stop, self.worker or process_group.command(strategy))
        return process_group.share(runner.run, strategy, settings.cpus_per_task, stop)


class _TaskRunner:
    """Runs the runs of one task."""

    def __init__(
        self, job: RunsJob, record: SubmissionRecord, settings: Settings, stop: Stop, worker: Sequence[str]
    ) -> None:
        self._settings = settings
        self._record = record
        self._stop = stop
        self._job = allocation.job_id()
        self._root = Path(job.root)
        self._task = record.tasks[job.index]
        self._breaker = CircuitBreaker(record.path.parent / record.group)
        self._worker = worker
        self._stopped_submission: StoppedSubmission | None = None
        self._retries: dict[RunFolder, int] = {}
        self._preempted: set[str] = set()

    def run(self) -> int:
        """Run them all. Returns the job's exit code."""
        runs = [run for run in map(self._folder, self._task.runs) if self._may_run(run)]
        _print(f"job {self._job} on {allocation.node_name()}: {len(runs)} of {len(self._task.runs)} runs to do")
        self._stopped_submission = self._breaker.stopped()
        if self._stopped_submission is None:
            with part("runs"):
                _in_thread(lambda: self._run_all(runs))
        open_runs = [run for run in runs if _is_open(run)]
        for run in runs:
            _print(f"{run.name}: {run.state.status}" + (f": {run.state.reason}" if run.state.reason else ""))
        if self._stopped_submission is not None:
            self._cancel_submission(self._stopped_submission, open_runs)
            return 1
        self._block_dependants(runs)
        if self._stop() and open_runs:
            return self._requeue(open_runs)
        return 0 if all(run.state.ended for run in map(self._folder, self._task.runs)) else 1

    def _folder(self, name: str) -> RunFolder:
        return RunFolder(self._root / name)

    def _may_run(self, run: RunFolder) -> bool:
        """Whether this job may run a run. It retries a failed run only if the submission says so, and only once."""
        state = run.state
        return state.status != "failed" or self._task.retry.get(run.name) == state.attempts

    def _run_all(self, runs: Sequence[RunFolder]) -> None:
        """Run these runs, and repeat for runs that were interrupted or that another process has released."""
        runs = list(runs)
        while runs and not self._stop():
            summary = run_local(
                runs,
                max_parallel=self._settings.side_by_side,
                threads=self._settings.threads,
                retry_failed=True,
                on_change=self._on_change,
                stop=self._stop,
                worker=self._worker,
            )
            self._preempted = {name for name, status in summary.outcomes.items() if status == "preempted"}
            for name, reason in summary.refusals.items():
                _print(f"{name}: refused: {reason}")
            runs = [] if self._stop() else [*self._interrupted_runs(runs), *self._released_runs(summary)]

    def _on_change(self, run: RunFolder) -> None:
        """Handle the start or end of a run: after repeated failures of the same kind no more runs are started."""
        if self._stopped_submission is None and run.state.status == "failed":
            self._stopped_submission = self._breaker.record(run, self._settings.stop_after_same_failure)
        self._stopped_submission = self._stopped_submission or self._breaker.stopped()
        if self._stopped_submission is not None:
            self._stop.request("the same error in other runs of the submission")

    def _interrupted_runs(self, runs: Sequence[RunFolder]) -> list[RunFolder]:
        """The runs whose worker was killed, or stopped by something else, and that this job may try again."""
        interrupted_runs = []
        for run in runs:
            retries = self._retries.get(run, 0)
            is_interrupted = run.state.status in ("lost", "preempted", "running") and holder(run.path) is None
            if is_interrupted and retries < _RETRIES:
                self._retries[run] = retries + 1
                interrupted_runs.append(run)
        return interrupted_runs

    def _released_runs(self, summary: LocalSummary) -> list[RunFolder]:
        """The runs held on other hosts that become free, such as after the loss of a node.

        Waits until each run is free, or a heartbeat shows that its holder is still at work.
        """
        held_runs = [self._folder(name) for name in summary.remote_runs]
        released_runs: list[RunFolder] = []
        start = time.monotonic()
        while held_runs and not self._stop():
            for run in list(held_runs):
                claim = holder(run.path)
                if claim is None and dependencies.standing(run).status != "waits":
                    released_runs.append(run)
                has_heartbeat = claim is not None and claim.age < _HEARTBEAT_SECONDS
                if claim is None or (has_heartbeat and time.monotonic() - start > _HEARTBEAT_SECONDS):
                    what = (
                        "free now"
                        if run in released_runs
                        else "left to the process that holds it or a run that it needs"
                    )
                    _print(f"{run.name}: {what}")
                    held_runs.remove(run)
            if held_runs:
                time.sleep(_POLL_SECONDS)
        return released_runs

    def _block_dependants(self, runs: Sequence[RunFolder]) -> None:
        """Mark the runs that need a failed run as blocked: Slurm cancels their jobs, so that these can't do it."""
        failed_names = {run.name for run in runs if run.state.status in ("failed", "diverged", "blocked")}
        if not failed_names:
            return
        names = {name for record in journal.records(self._root) for task in record.tasks for name in task.runs}
        open_runs = []
        for run in map(self._folder, sorted(names - failed_names)):
            with contextlib.suppress(BrokenRecord):
                if _is_open(run):
                    open_runs.append(run)
        while blocked_runs := self._block(open_runs, failed_names):  # a blocked run blocks the runs that need it
            failed_names |= {run.name for run in blocked_runs}
            open_runs = [run for run in open_runs if run not in blocked_runs]

    def _block(self, open_runs: Sequence[RunFolder], failed_names: set[str]) -> list[RunFolder]:
        """Block the queued runs that need a failed run. Returns the runs that are now blocked."""
        blocked_runs = []
        for run in open_runs:
            if run.state.status == "queued" and any(need.run in failed_names for need in dependencies.of(run)):
                standing = dependencies.standing(run, open_runs)
                if standing.status == "blocked" and dependencies.block(run, standing.reason or ""):
                    blocked_runs.append(run)
        return blocked_runs

    def _cancel_submission(self, stopped: StoppedSubmission, open_runs: Iterable[RunFolder]) -> None:
        """Cancel the waiting jobs of the submission, and write the reason to the folders of its runs."""
        _print(f"cancelled: {stopped.cause}")
        group = [record for record in journal.records(self._root) if record.group == self._record.group]
        jobs = [record.job for record in group if record.job is not None and record.void is None]
        problem = commands.cancel(jobs, pending_only=True)
        if problem is not None:
            _print(f"the waiting jobs could not be cancelled ({problem}): they will do nothing")
        names = [name for record in group for task in record.tasks for name in task.runs]
        for run in dict.fromkeys([*open_runs, *map(self._folder, names)]):
            if run.state.status == "queued":
                write_reason(run, f"not started, as {stopped.cause}")
            elif run.state.status == "preempted":
                write_reason(run, f"not continued, as {stopped.cause}")

    def _requeue(self, runs: Sequence[RunFolder]) -> int:
        """Put this job back into the queue, unless Slurm has done so or a user cancelled it. Returns the exit code."""
        reason = f"stopped by {self._stop.reason}"
        for run in runs:
            # If the signal reached the worker too, the worker wrote only the signal's name as the reason.
            if run.name in self._preempted and run.state.reason != reason:
                write_reason(run, reason)
        problem = allocation.requeue(allowed=self._settings.requeue)
        if problem is None:
            _print(f"job {self._job}: back in the queue, with {plural(len(runs), 'run')} to continue")
            return 0
        _print(f"job {self._job}: not put back into the queue: {problem}")
        for run in runs:
            write_reason(
                run, f"{run.state.reason or 'not started'}; its job was not put back into the queue: {problem}"
            )
        return 1


def write_reason(run: RunFolder, reason: str) -> None:
    """Write why a run that no process holds doesn't continue: to its state, and to its log if it has started."""
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
    """Call a function in another thread, where the local launcher installs no signal handlers.

    In the main thread it would kill its workers at the second signal.
    """
    errors: list[BaseException] = []

    def target() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="runs")
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # without a timeout, join would block the signal handlers
    if errors:
        raise errors[0]


def _is_open(run: RunFolder) -> bool:
    """Whether a later start of the job could continue the run."""
    return run.state.status in ("queued", "preempted", "running", "lost")


def _print(line: str) -> None:
    print(line, flush=True)

"""The local launcher's scheduler: it runs a queue of runs on this machine, a fixed number at a time.

It keeps no files of its own, only the run folders. So a call may be killed and repeated, or made twice at the same
time: claims keep two workers off the same run, and the number of attempts keeps a run from being started twice.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from selectors import EVENT_READ, DefaultSelector

from lab.dispatch.control import dependencies, provenance
from lab.dispatch.launchers.local.machine import MachineShare, available_gpus, divide_machine
from lab.dispatch.launchers.local.worker_process import WorkerProcess, record_worker_exit
from lab.dispatch.launchers.local.worker_start import CommandStarter, Nursery, Starter
from lab.dispatch.worker.attempt import FAILED, HELD, PREEMPTED, REFUSED, Stop
from lab.dispatch.worker.claim import holder
from lab.records import RunFolder, Status

WORKER = (sys.executable, "-m", "lab.dispatch.worker")
_POLL_SECONDS = 0.5  # between checks of runs that other processes hold, and of workers that may have been killed


@dataclass
class LocalSummary:
    """What a call of `run_local` did, by run name.

    Attributes:
        outcomes: runs that it ran → the status in which it left them.
        skipped_runs: runs that it didn't need to run or may not run → their status at the end.
        remote_runs: runs that another host holds, and runs that need one of those.
        pending_runs: runs that it didn't start because it was stopped.
        refusals: runs that workers refused because they were made with other code → the reason. Their folders are
            unchanged.
        stop_reason: what stopped the call early; None if nothing did.
    """

    outcomes: dict[str, Status] = field(default_factory=dict)
    skipped_runs: dict[str, Status] = field(default_factory=dict)
    remote_runs: list[str] = field(default_factory=list)
    pending_runs: list[str] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    stop_reason: str | None = None


def run_local(
    runs: Sequence[RunFolder],
    *,
    max_parallel: int | None = None,
    threads: int | None = None,
    retry_failed: bool = False,
    on_change: Callable[[RunFolder], None] | None = None,
    stop: Stop | None = None,
    worker: Sequence[str] = WORKER,
) -> LocalSummary:
    """Run these runs in order, and return when each has a result or has been tried once.

    Finished, diverged and cancelled runs are skipped; preempted, lost and queued runs continue. A run that another
    launcher on this host holds is waited for, and continued if that launcher releases it. No run is tried twice.

    A run that needs others waits until they have finished. If one of them can't finish, the run is blocked and its
    state gives the reason; a blocked run continues as soon as its needs can be met.

    On Ctrl-C, SIGTERM or SIGHUP the runs write checkpoints and the call returns; the second signal kills them.

    Args:
        runs: the runs.
        max_parallel: most workers at once; by default one for each GPU, or for each core without GPUs.
        threads: of each worker; by default an equal share of the cores.
        retry_failed: also run those whose status is `failed` now.
        on_change: called with each run that starts or ends here.
        stop: stops the call as Ctrl-C does.
        worker: command of a worker process.
    Raises:
        ValueError: max_parallel or threads is not positive.
    """
    runs = list(dict.fromkeys(runs))
    failed_attempts = {run: state.attempts for run in runs if (state := run.state).status == "failed"}
    gpus = available_gpus()
    # Reading configurations is slow, and only needed if there are GPUs to share.
    gpus = gpus if gpus and any(run.config.get("train", {}).get("accelerator") != "cpu" for run in runs) else ()
    share = divide_machine(len(runs), max_parallel=max_parallel, threads=threads, gpus=gpus)
    scheduler = _Scheduler(runs, share, stop or Stop(), on_change or (lambda run: None), worker)
    scheduler.retries = failed_attempts if retry_failed else {}
    with _handle_signals(scheduler):
        return scheduler.run_all()


class _Scheduler:
    """One call of `run_local`. `retries`: failed runs to try again → the attempts made of them so far."""

    def __init__(
        self,
        runs: Sequence[RunFolder],
        share: MachineShare,
        stop: Stop,
        on_change: Callable[[RunFolder], None],
        command: Sequence[str],
    ) -> None:
        self.stop = stop
        self.retries: dict[RunFolder, int] = {}
        self._summary = LocalSummary()
        self._share = share
        self._on_change = on_change
        self._starter = _starter(command, share, runs)
        self._queue = deque(runs)
        self._claimed_runs: list[RunFolder] = []  # by other processes on this host
        self._open_runs = set(runs)
        self._dependants: dict[RunFolder, list[RunFolder]] = {}
        self._last_poll = 0.0
        self._workers: list[WorkerProcess] = []

    def run_all(self) -> LocalSummary:
        is_stopping = False
        try:
            while True:
                if self.stop() and not is_stopping:
                    is_stopping = True
                    for worker in self._workers:
                        worker.request_stop(self.stop.reason or "")
                if not is_stopping:
                    self._dispatch()
                is_busy = any(worker.run for worker in self._workers)
                if not is_busy and (is_stopping or not (self._queue or self._claimed_runs)):
                    break
                self._handle_events()
        finally:
            # Closing their input stops the workers, after an error in here as well.
            for worker in self._workers:
                worker.close()
            for worker in self._workers:
                worker.wait()
            self._starter.close()
        if is_stopping:
            self._summary.stop_reason = self.stop.reason
            dependants = [run for runs in self._dependants.values() for run in runs]
            self._summary.pending_runs += [run.name for run in (*self._queue, *self._claimed_runs, *dependants)]
        return self._summary

    def kill(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            worker.kill()

    def _dispatch(self) -> None:
        """Assign runs to workers until either runs out."""
        if self._claimed_runs and time.monotonic() - self._last_poll >= _POLL_SECONDS:
            self._last_poll = time.monotonic()
            self._queue.extendleft(reversed(self._claimed_runs))
            self._claimed_runs = []
        while self._queue:
            idle_worker = next((worker for worker in self._workers if worker.run is None and not worker.retired), None)
            if idle_worker is None and len(self._workers) >= self._share.workers:
                return
            run = self._queue.popleft()
            attempts = self._attempts_if_ready(run)
            if attempts is not None:
                (idle_worker or self._start_worker()).assign(run, attempts)
                self._on_change(run)

    def _attempts_if_ready(self, run: RunFolder) -> int | None:
        """The attempts made so far of a run that can start now. Otherwise None, and the run is put where it belongs."""
        # Read the holder before the state: a process writes the state before it releases the run.
        claim = holder(run.path)
        state = run.state
        if claim is not None:
            if claim.process.host in ("", socket.gethostname()):
                self._claimed_runs.append(run)
            else:
                self._summary.remote_runs.append(run.name)
                self._close(run)
            return None
        # A run that has failed since this call began was tried by another launcher.
        may_not_retry = state.status == "failed" and self.retries.get(run) != state.attempts
        if (
            state.ended
            or may_not_retry
            or state.status == "cancelled"
            or (state.status == "blocked" and not dependencies.of(run))
        ):
            self._summary.skipped_runs[run.name] = state.status
            self._close(run)
            return None
        return state.attempts if self._needs_are_met(run) else None

    def _needs_are_met(self, run: RunFolder) -> bool:
        """Whether the runs that a run needs have finished. If not, the run is put where it belongs."""
        standing = dependencies.standing(run, self._open_runs)
        if standing.status == "ready":
            return True
        open_need = next((need for need in standing.on if need in self._open_runs), None)
        claims = [claim for need in standing.on if (claim := holder(need.path)) is not None]
        if open_need is not None:
            self._dependants.setdefault(open_need, []).append(run)
        elif standing.status == "blocked":
            dependencies.block(run, standing.reason or "")
            self._summary.skipped_runs[run.name] = run.state.status
            self._close(run)
            self._on_change(run)
        elif all(claim.process.host in ("", socket.gethostname()) for claim in claims):
            self._claimed_runs.append(run)
        else:
            self._summary.remote_runs.append(run.name)
            self._close(run)
        return False

    def _close(self, run: RunFolder) -> None:
        """Mark a run as done in this call, and put the runs that wait for it back into the queue."""
        self._open_runs.discard(run)
        self._queue.extendleft(reversed(self._dependants.pop(run, [])))

    def _start_worker(self) -> WorkerProcess:
        slot = next(n for n in range(self._share.workers) if all(worker.slot != n for worker in self._workers))
        worker = WorkerProcess(self._starter, slot, self._share.threads, self._share.environment(slot))
        self._workers.append(worker)
        return worker

    def _handle_events(self) -> None:
        """Wait briefly for an answer or the exit of a worker, and handle what came."""
        with DefaultSelector() as selector:
            for worker in self._workers:
                if not worker.output_closed:
                    selector.register(worker, EVENT_READ)
            if selector.get_map():
                selector.select(_POLL_SECONDS)
            else:
                time.sleep(_POLL_SECONDS / 10)
        for worker in list(self._workers):
            return_code = worker.poll()  # before its answer is read: after its exit no answer can follow
            run, code = worker.run, worker.answer()
            if run is not None and code is not None:
                self._handle_answer(worker, run, code)
            if return_code is not None:
                self._handle_exit(worker, return_code)

    def _handle_answer(self, worker: WorkerProcess, run: RunFolder, code: int) -> None:
        worker.retired |= code in (FAILED, PREEMPTED)
        if code == HELD:  # another launcher claimed the run first: check its state again
            self._queue.appendleft(run)
        elif code == REFUSED:
            self._summary.refusals[run.name] = provenance.refusal(run.record) or "made with other code"
            self._close(run)
            self._on_change(run)
        else:
            self._record_outcome(run)

    def _handle_exit(self, worker: WorkerProcess, return_code: int) -> None:
        self._workers.remove(worker)
        if worker.run is not None:
            # The disk may be full, which may be why the worker ended. Without this record the run counts as lost.
            with contextlib.suppress(OSError):
                record_worker_exit(
                    worker.run,
                    worker.attempts,
                    return_code,
                    worker.last_error_line(),
                    memory_was_short=worker.memory_was_short(),
                )
            if return_code == 0 and worker.run.state.attempts == worker.attempts:
                self._summary.pending_runs.append(worker.run.name)  # the worker was stopped before the run started
                self._close(worker.run)
            else:
                self._record_outcome(worker.run)
        worker.close()

    def _record_outcome(self, run: RunFolder) -> None:
        status = run.state.status
        self._summary.outcomes[run.name] = "lost" if status == "running" and holder(run.path) is None else status
        self._close(run)
        self._on_change(run)


def _starter(command: Sequence[str], share: MachineShare, runs: Sequence[RunFolder]) -> Starter:
    """What starts the workers: a nursery, if several of the lab's own share its imports.

    A process that has once used a GPU can't be forked, and runs on GPUs are long: each of their workers starts alone.
    """
    if tuple(command) == WORKER and share.workers > 1 and not share.gpus and Nursery.is_possible():
        return Nursery({**os.environ, **share.environment(0)}, sweep=runs[0].path.parents[1])
    return CommandStarter(command)


@contextlib.contextmanager
def _handle_signals(scheduler: _Scheduler) -> Iterator[None]:
    """Stop on the first signal, kill the workers on the second. Signals reach the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: object) -> None:
        if scheduler.stop():
            scheduler.kill()
        scheduler.stop.request(signal.Signals(number).name)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

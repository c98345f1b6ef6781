"""The local launcher: a queue of runs on this machine, so many at once.

It keeps nothing but what is in the run folders, so it can be killed and called again, or called twice at once: claims
see to it that no run has two workers, and the number of attempts seen that none is begun a second time.
"""

from __future__ import annotations

import contextlib
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
from lab.dispatch.launchers.local.machine import Share, available_gpus, share
from lab.dispatch.launchers.local.pool import Worker, bury
from lab.dispatch.worker.attempt import FAILED, HELD, PREEMPTED, REFUSED, Stop
from lab.dispatch.worker.claim import holder
from lab.records import RunFolder, Status

WORKER = (sys.executable, "-m", "lab.dispatch.worker")
_LOOK_AGAIN = 0.5  # seconds between looks at runs that others hold, and for workers that ended without a word


@dataclass
class LocalSummary:
    """What a call of `run_local` did, by run name.

    Attributes:
        ran: runs that it ran, with the status in which it left them.
        found: runs that it had no need or no right to run, with the status in which they stood at last.
        elsewhere: runs that another host holds, or that need one such.
        left: runs not begun because the call was stopped.
        refused: runs that workers refused as they were made with other code, with the reason; they stand as they did.
        stopped: what stopped it early; None if nothing did.
    """

    ran: dict[str, Status] = field(default_factory=dict)
    found: dict[str, Status] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None


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
    """Run what is missing of these runs, in order, and return when each has a result or has been tried once.

    Finished, diverged and cancelled runs are left as they are; preempted, lost and queued ones go on. A run that
    another launcher on this host holds is waited for, and gone on with if that one lets go of it. Nothing is tried
    twice.

    A run that needs others waits for them for as long as something is going to make them. If it can't get them it is
    blocked, with the reason in its state; one that was blocked goes on if it now can.

    Ctrl-C, SIGTERM or SIGHUP lets the runs checkpoint and then returns; the second time, they are killed.

    Args:
        runs: the runs.
        max_parallel: most workers at once; by default one a GPU, or one a core where there is none.
        threads: of each worker; by default an equal share of the cores.
        retry_failed: also run those that stand as failed now.
        on_change: told of each run that begins or ends here.
        stop: stops the call as Ctrl-C does.
        worker: command of a worker process.
    Raises:
        ValueError: max_parallel or threads is not positive.
    """
    runs = list(dict.fromkeys(runs))
    failed = {run: state.attempts for run in runs if (state := run.state).status == "failed"}
    gpus = available_gpus()
    # Reading configurations takes a while, and matters only where there is something to share.
    gpus = gpus if gpus and any(run.config.get("train", {}).get("accelerator") != "cpu" for run in runs) else ()
    plan = share(len(runs), max_parallel=max_parallel, threads=threads, gpus=gpus)
    launcher = _Launcher(runs, plan, stop or Stop(), on_change or (lambda run: None), worker)
    launcher.retry = failed if retry_failed else {}
    with _signals(launcher):
        return launcher.launch()


class _Launcher:
    """One call of `run_local`. `retry`: failed runs to be tried, with the attempts made of them so far."""

    def __init__(
        self,
        runs: Sequence[RunFolder],
        plan: Share,
        stop: Stop,
        on_change: Callable[[RunFolder], None],
        command: Sequence[str],
    ) -> None:
        self.stop = stop
        self.retry: dict[RunFolder, int] = {}
        self._summary = LocalSummary()
        self._plan = plan
        self._on_change = on_change
        self._command = command
        self._waiting = deque(runs)
        self._held: list[RunFolder] = []
        self._open = set(runs)
        self._dependants: dict[RunFolder, list[RunFolder]] = {}
        self._looked = 0.0
        self._workers: list[Worker] = []

    def launch(self) -> LocalSummary:
        stopping = False
        try:
            while True:
                if self.stop() and not stopping:
                    stopping = True
                    for worker in self._workers:
                        worker.ask_to_stop(self.stop.reason or "")
                if not stopping:
                    self._dispatch()
                busy = any(worker.run for worker in self._workers)
                if not busy and (stopping or not (self._waiting or self._held)):
                    break
                self._listen()
        finally:
            # Workers see the end of their input and stop, after an error in here as well.
            for worker in self._workers:
                worker.close()
            for worker in self._workers:
                worker.wait()
        if stopping:
            self._summary.stopped = self.stop.reason
            dependants = [run for runs in self._dependants.values() for run in runs]
            self._summary.left += [run.name for run in (*self._waiting, *self._held, *dependants)]
        return self._summary

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.kill()

    def _dispatch(self) -> None:
        """Give runs to workers for as long as there are both."""
        if self._held and time.monotonic() - self._looked >= _LOOK_AGAIN:
            self._looked = time.monotonic()
            self._waiting.extendleft(reversed(self._held))
            self._held = []
        while self._waiting:
            worker = next((each for each in self._workers if each.run is None and not each.retired), None)
            if worker is None and len(self._workers) >= self._plan.workers:
                return
            run = self._waiting.popleft()
            attempts = self._look(run)
            if attempts is not None:
                (worker or self._start()).give(run, attempts)
                self._on_change(run)

    def _look(self, run: RunFolder) -> int | None:
        """The attempts made of a run that is to be run now; otherwise None, and the run is filed where it belongs."""
        # The holder first: whoever lets go of a run has written its state before.
        held = holder(run.path)
        state = run.state
        if held is not None:
            if held.process.host in ("", socket.gethostname()):
                self._held.append(run)
            else:
                self._summary.elsewhere.append(run.name)
                self._close(run)
            return None
        # A run that failed since the call began has been tried, by another launcher.
        may_not = state.status == "failed" and self.retry.get(run) != state.attempts
        if (
            state.ended
            or may_not
            or state.status == "cancelled"
            or (state.status == "blocked" and not dependencies.of(run))
        ):
            self._summary.found[run.name] = state.status
            self._close(run)
            return None
        return state.attempts if self._has_what_it_needs(run) else None

    def _has_what_it_needs(self, run: RunFolder) -> bool:
        """Whether a run can be run now; if not, it is filed where it belongs."""
        standing = dependencies.standing(run, self._open)
        if standing.status == "ready":
            return True
        here = next((needed for needed in standing.on if needed in self._open), None)
        holders = [held for needed in standing.on if (held := holder(needed.path)) is not None]
        if here is not None:
            self._dependants.setdefault(here, []).append(run)
        elif standing.status == "blocked":
            dependencies.block(run, standing.reason or "")
            self._summary.found[run.name] = run.state.status
            self._close(run)
            self._on_change(run)
        elif all(held.process.host in ("", socket.gethostname()) for held in holders):
            self._held.append(run)
        else:
            self._summary.elsewhere.append(run.name)
            self._close(run)
        return False

    def _close(self, run: RunFolder) -> None:
        """This call is done with a run: what waits for it is looked at again."""
        self._open.discard(run)
        self._waiting.extendleft(reversed(self._dependants.pop(run, [])))

    def _start(self) -> Worker:
        slot = next(n for n in range(self._plan.workers) if all(worker.slot != n for worker in self._workers))
        worker = Worker(self._command, slot, self._plan.threads, self._plan.environment(slot))
        self._workers.append(worker)
        return worker

    def _listen(self) -> None:
        """Wait for an answer or the end of a worker, for a moment."""
        with DefaultSelector() as selector:
            for worker in self._workers:
                if not worker.silent:
                    selector.register(worker, EVENT_READ)
            if selector.get_map():
                selector.select(_LOOK_AGAIN)
            else:
                time.sleep(_LOOK_AGAIN / 10)
        for worker in list(self._workers):
            ended = worker.ended()  # before its answer is read: a worker that has ended will say nothing more
            run, code = worker.run, worker.answer()
            if run is not None and code is not None:
                self._answered(worker, run, code)
            if ended is not None:
                self._ended(worker, ended)

    def _answered(self, worker: Worker, run: RunFolder, code: int) -> None:
        worker.retired |= code in (FAILED, PREEMPTED)
        if code == HELD:  # another launcher was faster: see how it stands now
            self._waiting.appendleft(run)
        elif code == REFUSED:
            self._summary.refused[run.name] = provenance.refusal(run.record) or "made with other code"
            self._close(run)
            self._on_change(run)
        else:
            self._close_book(run)

    def _ended(self, worker: Worker, code: int) -> None:
        self._workers.remove(worker)
        if worker.run is not None:
            with contextlib.suppress(OSError):  # a full disk, perhaps what it died of; the run shows as lost without
                bury(worker.run, worker.attempts, code, worker.last_words(), starved=worker.starved())
            if code == 0 and worker.run.state.attempts == worker.attempts:
                self._summary.left.append(worker.run.name)  # stopped before it had begun
                self._close(worker.run)
            else:
                self._close_book(worker.run)
        worker.close()

    def _close_book(self, run: RunFolder) -> None:
        status = run.state.status
        self._summary.ran[run.name] = "lost" if status == "running" and holder(run.path) is None else status
        self._close(run)
        self._on_change(run)


@contextlib.contextmanager
def _signals(launcher: _Launcher) -> Iterator[None]:
    """Stop the launcher on the first signal, kill its workers on the second. Signals reach the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: object) -> None:
        if launcher.stop():
            launcher.kill()
        launcher.stop.request(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

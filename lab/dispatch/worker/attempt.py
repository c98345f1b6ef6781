"""One attempt at one run, from the claim to the final state. Every worker runs this, whichever launcher started it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lab.dispatch.control import cancel, dependencies, provenance
from lab.dispatch.worker import failure
from lab.dispatch.worker.claim import Claim
from lab.dispatch.worker.heartbeat import Heartbeat
from lab.dispatch.worker.log import RunLog
from lab.records import CONFIG, RUN_FILE, Progress, RunFolder, State, Status
from lab.training.progress.outcome import Outcome
from lab.training.progress.phase_clock import PhaseClock

FINISHED, FAILED, DIVERGED, HELD, BLOCKED, REFUSED, PREEMPTED = 0, 1, 3, 4, 5, 6, 75
"""Exit codes of a worker.

HELD: another worker holds the run, has attempted it since, or a user has cancelled it; nothing was done. BLOCKED: a run
that it needs has not finished; it was not begun. REFUSED: it was made with other code than the worker's; it was not
begun and keeps its status, so that it can be run with the right code. PREEMPTED is EX_TEMPFAIL of sysexits.h: try
again.
"""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""Signals that ask a worker to stop: from operators, from the keyboard, and from a cluster before the time limit."""


class Stop:
    """A request to stop, from a signal or a launcher. Training checks it after every step."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def request(self, reason: str) -> None:
        """Ask to stop. Only the first reason is kept. Safe in a signal handler."""
        if self.reason is None:
            self.reason = reason

    def __call__(self) -> bool:
        return self.reason is not None

    def on_signals(self, wake: Callable[[], None] = lambda: None) -> None:
        """Stop on SIGTERM, SIGINT and SIGUSR2 from now on. Call it from the main thread.

        Args:
            wake: also called by the signal handler.
        """

        def handle(number: int, _: object) -> None:
            self.request(signal.Signals(number).name)
            wake()

        for number in SIGNALS:
            signal.signal(number, handle)


Report = Callable[[Progress], None]
Train = Callable[[RunFolder, Report, Stop], Outcome]
"""Trains the run in a folder and returns its outcome. An exception is a failure of the run."""


def execute(
    run: RunFolder,
    train: Train,
    *,
    stop: Stop,
    attempts: int | None = None,
    capture: bool = True,
    report: Report | None = None,
    on_lost: Callable[[], None] | None = None,
) -> int:
    """Attempt a run and leave its state in its folder.

    Args:
        run: the run.
        train: trains it.
        stop: checked by training after each step; also stops a run that hasn't begun.
        attempts: the number of earlier attempts that the caller knows of. If there have been more, nothing is done.
        capture: whether to write the process's stdout and stderr to the run's log.
        report: also called with the progress.
        on_lost: called from another thread when another process has taken the run over, which happens only after
            minutes without a heartbeat from this one. By default training stops.
    Returns:
        FINISHED, DIVERGED, PREEMPTED, FAILED, HELD, BLOCKED or REFUSED. A run that has its result is not run again.
    Raises:
        OSError: the folder can't be written. The run is shown as lost once this process has ended.
    """
    began, began_cpu = time.monotonic(), time.process_time()
    claim = Claim.take(run.path)
    if claim is None:
        return HELD
    state = adopt_result(run)
    moved_on = attempts is not None and state.attempts != attempts
    cancelled = state.status == "cancelled"  # after the caller's check: only `lab retry` may change that
    if state.ended or moved_on or cancelled:
        claim.release()
        return HELD if moved_on or cancelled else _code(state)
    refusal = provenance.refusal(run.record)
    if refusal is not None:
        # The run keeps its status: other code may only record why it wasn't run.
        kind = state.failure if state.status == "failed" else "other_code"
        run.state = state.replace(failure=kind, reason=refusal)
        claim.release()
        return REFUSED
    # Checked here too, as not every caller has: no run may learn from one that is half trained.
    missing = dependencies.standing(run).reason
    if missing is not None:
        run.state = dependencies.blocked(state, missing)
        claim.release()
        return BLOCKED
    state = State(
        status="running",
        attempts=state.attempts + 1,
        host=socket.gethostname(),
        pid=os.getpid(),
        progress=None if state.progress is None else replace(state.progress, phase="start-up", evaluation=None),
        seconds=state.seconds,
        cpu_seconds=state.cpu_seconds,
    )
    clock = PhaseClock(state.seconds, state.cpu_seconds, since=began, since_cpu=began_cpu)
    lost = on_lost or (lambda: stop.request("another worker has taken the run over"))
    title = f"attempt {state.attempts} on {state.host}, process {state.pid}"
    with (
        RunLog(run.path / "log.txt", title, capture=capture) as log,
        Heartbeat(run, claim, state, lost, stop.request, clock) as heartbeat,
        clock.running(),
    ):
        code = _attempt(run, train, stop, log, heartbeat, report)
    if heartbeat.lost:
        return HELD
    claim.release()
    return code


def adopt_result(run: RunFolder) -> State:
    """The run's state, taken from its summary if a worker died after writing that and before writing the state.

    Only the holder of the run's claim may call it.
    """
    state, summary = run.state, run.summary
    if not state.ended and summary is not None and summary.result is not None:
        state = state.replace(status=summary.result, reason=summary.reason, failure=None)
        if state.seconds and not summary.seconds:
            run.summary = replace(summary, seconds=state.seconds, cpu_seconds=state.cpu_seconds)
        run.state = state
    return state


def _attempt(run: RunFolder, train: Train, stop: Stop, log: RunLog, heartbeat: Heartbeat, report: Report | None) -> int:
    def note(progress: Progress) -> None:
        heartbeat.progress(progress)
        if report is not None:
            report(progress)

    began = time.monotonic()
    try:
        if stop():
            outcome = Outcome("preempted", None)
        else:
            run.add_provenance(provenance.of_process())
            outcome = train(run, note, stop)
            run.add_provenance(outcome.summary.provenance)
            _add_seconds(run, outcome, heartbeat)
    except KeyboardInterrupt:
        outcome = Outcome("preempted", "interrupted from the keyboard")
    # A run that calls sys.exit() must not end its worker.
    except (Exception, SystemExit) as error:
        log.exception(error)
        kind = failure.classify(error)
        # A run of several processes is lost if one of them is gone, just as a run of one process is.
        heartbeat.end("lost" if kind == "interrupted" else "failed", failure.reason(error), kind)
        return FAILED
    status: Status = outcome.status
    reason = outcome.reason
    if status == "preempted":
        reason = f"stopped by {stop.reason}" if stop.reason else reason
        cancelled = cancel.requested(run, heartbeat.state.attempts)
        status, reason = ("preempted", reason) if cancelled is None else ("cancelled", cancelled)
    log.line(f"{status} after {time.monotonic() - began:.1f} s" + (f": {reason}" if reason else ""))
    heartbeat.end(status, reason)
    return _code(heartbeat.state)


def _add_seconds(run: RunFolder, outcome: Outcome, heartbeat: Heartbeat) -> None:
    """Write into the summary where the seconds went. Training wrote the summary, and knows its own part alone."""
    if outcome.status == "preempted" or heartbeat.lost:
        return
    summary = run.summary
    if summary is not None:
        run.summary = heartbeat.with_seconds(summary)


def _code(state: State) -> int:
    codes = {"finished": FINISHED, "diverged": DIVERGED, "preempted": PREEMPTED, "cancelled": PREEMPTED}
    return codes.get(state.status, FAILED)


def open_run(path: Path) -> RunFolder:
    """The run in this folder.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    run = RunFolder(path.resolve())
    if not run.exists:
        raise FileNotFoundError(f"{path}: no run folder ({CONFIG} and {RUN_FILE} are missing)")
    return run

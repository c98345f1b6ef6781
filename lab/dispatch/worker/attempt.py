"""One attempt at one run, from claim to final state: what every worker does, whatever started it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from lab.dispatch.control import cancel, dependencies, provenance
from lab.dispatch.worker import failure
from lab.dispatch.worker.claim import Claim
from lab.dispatch.worker.heartbeat import Heartbeat
from lab.dispatch.worker.log import RunLog
from lab.records import CONFIG, RUN_FILE, Progress, RunFolder, State, Status
from lab.training.progress.outcome import Outcome

FINISHED, FAILED, DIVERGED, HELD, BLOCKED, REFUSED, PREEMPTED = 0, 1, 3, 4, 5, 6, 75
"""Exit codes of a worker. HELD: another worker holds the run, or it has been moved on or cancelled; nothing was done.
BLOCKED: a run that it needs has not finished; it was not begun. REFUSED: it was made with other code than the worker's;
it was not begun, and stands as it did, so that it can be run with the right code. 75 is the EX_TEMPFAIL of sysexits.h:
try again."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""What asks a worker to stop: operators and the kernel, the keyboard, and a cluster shortly before the time is up."""


class Stop:
    """A request to stop, from a signal or a launcher; asked by training after every step."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def request(self, reason: str) -> None:
        """Ask to stop; the first reason counts. Safe in a signal handler."""
        if self.reason is None:
            self.reason = reason

    def __call__(self) -> bool:
        return self.reason is not None

    def on_signals(self, wake: Callable[[], None] = lambda: None) -> None:
        """Stop on SIGTERM, SIGINT and SIGUSR2 from now on; `wake` is called too. From the main thread only."""

        def handle(number: int, _: object) -> None:
            self.request(signal.Signals(number).name)
            wake()

        for number in SIGNALS:
            signal.signal(number, handle)


Report = Callable[[Progress], None]
Train = Callable[[RunFolder, Report, Stop], Outcome]
"""Trains the run in a folder and says how it ended; an exception is a failure of the run."""


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
        train: what to do with it.
        stop: asked by training after each step; also stops a run that hasn't begun.
        attempts: do it only if so many attempts have been made: whoever decided that it should run had seen as many.
        capture: send the process's stdout and stderr to the run's log meanwhile.
        report: told of progress as well.
        on_lost: called from another thread when another process has taken the run over, which happens only if this
            one gave no sign of life for minutes; by default training is stopped.
    Returns:
        FINISHED, DIVERGED, PREEMPTED, FAILED, HELD, BLOCKED or REFUSED. A run that already has its result is not run
        again.
    Raises:
        OSError: the folder cannot be written; the run then looks lost as soon as this process has ended.
    """
    claim = Claim.take(run.path)
    if claim is None:
        return HELD
    state = adopt_result(run)
    moved_on = attempts is not None and state.attempts != attempts
    cancelled = state.status == "cancelled"  # since whoever started this looked: only `lab retry` may change that
    if state.ended or moved_on or cancelled:
        claim.release()
        return HELD if moved_on or cancelled else _code(state)
    refusal = provenance.refusal(run.record)
    if refusal is not None:
        # The run stands as it did, and says why it wasn't run: other code may change nothing else of it.
        kind = state.failure if state.status == "failed" else "other_code"
        run.state = state.replace(failure=kind, reason=f"refused: {refusal}")
        claim.release()
        return REFUSED
    # Whoever started this had looked already, or nobody had: nothing learns from a run that is half trained.
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
        progress=state.progress,
    )
    lost = on_lost or (lambda: stop.request("another worker has taken the run over"))
    title = f"attempt {state.attempts} on {state.host}, process {state.pid}"
    with (
        RunLog(run.path / "log.txt", title, capture=capture) as log,
        Heartbeat(run, claim, state, lost, stop.request) as heartbeat,
    ):
        code = _attempt(run, train, stop, log, heartbeat, report)
    if heartbeat.lost:
        return HELD
    claim.release()
    return code


def adopt_result(run: RunFolder) -> State:
    """The run's state; that of its summary if a worker died between writing the one and the other.

    Only whoever holds the claim may call it.
    """
    state, summary = run.state, run.summary
    if not state.ended and summary is not None and summary.result is not None:
        state = state.replace(status=summary.result, reason=summary.reason, failure=None)
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
    except KeyboardInterrupt:
        outcome = Outcome("preempted", "interrupted from the keyboard")
    # A run that calls sys.exit() must not take its worker along.
    except (Exception, SystemExit) as error:
        log.exception(error)
        kind = failure.classify(error)
        # With one of its processes gone, a run of several is lost, as it would be had it had no other.
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


def _code(state: State) -> int:
    codes = {"finished": FINISHED, "diverged": DIVERGED, "preempted": PREEMPTED, "cancelled": PREEMPTED}
    return codes.get(state.status, FAILED)


def open_run(path: Path) -> RunFolder:
    """The run in this folder.

    Raises:
        FileNotFoundError: there is none.
    """
    run = RunFolder(path.resolve())
    if not run.exists:
        raise FileNotFoundError(f"{path}: no run folder ({CONFIG} and {RUN_FILE} are missing)")
    return run

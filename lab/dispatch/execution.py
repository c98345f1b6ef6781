"""One attempt at one run, from claim to final state: what every worker does, whatever started it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from lab.dispatch import failure, provenance
from lab.dispatch.claim import Claim
from lab.dispatch.log import RunLog
from lab.dispatch.pulse import Pulse
from lab.runs import Progress, RunFolder, State
from lab.training.outcome import Outcome
from lab.training.outcome import Progress as Reported

FINISHED, FAILED, DIVERGED, HELD, PREEMPTED = 0, 1, 3, 4, 75
"""Exit codes of a worker. HELD: another worker holds the run, or has moved it on; nothing was done.
75 is the EX_TEMPFAIL of sysexits.h: try again."""

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


Report = Callable[[Reported], None]
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
        FINISHED, DIVERGED, PREEMPTED, FAILED or HELD. A run that already has its result is not run again.
    Raises:
        OSError: the folder cannot be written; the run then looks lost as soon as this process has ended.
    """
    claim = Claim.take(run.path)
    if claim is None:
        return HELD
    state = adopt_result(run)
    moved_on = attempts is not None and state.attempts != attempts
    if state.ended or moved_on:
        claim.release()
        return HELD if moved_on else _code(state)
    state = State(
        status="running",
        attempts=state.attempts + 1,
        host=socket.gethostname(),
        pid=os.getpid(),
        progress=state.progress,
    )
    lost = on_lost or (lambda: stop.request("another worker has taken the run over"))
    title = f"attempt {state.attempts} on {state.host}, process {state.pid}"
    with RunLog(run.path / "log.txt", title, capture=capture) as log, Pulse(run, claim, state, lost) as pulse:
        code = _attempt(run, train, stop, log, pulse, report)
    if pulse.lost:
        return HELD
    claim.release()
    return code


def adopt_result(run: RunFolder) -> State:
    """The run's state; that of its summary if a worker died between writing the one and the other.

    Only whoever holds the claim may call it.
    """
    state, summary = run.state, run.summary
    if not state.ended and summary is not None and summary.get("status") in ("finished", "diverged"):
        state = state.replace(status=summary["status"], reason=summary.get("reason"), failure=None)
        run.state = state
    return state


def _attempt(run: RunFolder, train: Train, stop: Stop, log: RunLog, pulse: Pulse, report: Report | None) -> int:
    def tell(progress: Reported) -> None:
        pulse.progress(as_progress(progress))
        if report is not None:
            report(progress)

    began = time.monotonic()
    try:
        if stop():
            outcome = Outcome("preempted", None, {})
        else:
            run.add_provenance(**provenance.of_process())
            outcome = train(run, tell, stop)
            run.add_provenance(**outcome.summary.get("provenance", {}))
    except KeyboardInterrupt:
        outcome = Outcome("preempted", "interrupted from the keyboard", {})
    # A run that calls sys.exit() must not take its worker along.
    except (Exception, SystemExit) as error:
        log.exception(error)
        pulse.write(status="failed", failure=failure.classify(error), reason=failure.reason(error))
        return FAILED
    reason = outcome.reason
    if outcome.status == "preempted":
        reason = f"stopped by {stop.reason}" if stop.reason else reason
    log.line(f"{outcome.status} after {time.monotonic() - began:.1f} s" + (f": {reason}" if reason else ""))
    pulse.write(status=outcome.status, reason=reason)
    return _code(pulse.state)


def as_progress(reported: Reported) -> Progress:
    """Training's report, as state files hold it."""
    return Progress(
        step=reported.step,
        steps=reported.steps,
        tokens=reported.tokens,
        loss=reported.loss,
        tokens_per_second=reported.tokens_per_second,
    )


def _code(state: State) -> int:
    return {"finished": FINISHED, "diverged": DIVERGED, "preempted": PREEMPTED}.get(state.status, FAILED)


def open_run(path: Path) -> RunFolder:
    """The run in this folder.

    Raises:
        FileNotFoundError: there is none.
    """
    run = RunFolder(path.resolve())
    if not run.exists:
        raise FileNotFoundError(f"{path}: no run folder (config.yaml and run.json are missing)")
    return run

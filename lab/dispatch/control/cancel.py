"""Cancelling runs: whoever works at one checkpoints and leaves it; the runs beside it go on.

A run that nobody holds is marked in its state. One that is held is asked: a request in its folder, which its worker
reads between two signs of life, whatever machine it is on and whatever started it. Cluster jobs are cancelled only
where all that they still have to do is to be cancelled.
"""

from __future__ import annotations

import contextlib
import getpass
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from lab.dispatch.worker.claim import Claim, holder
from lab.records import CancelRequest, RunFolder, State, read_cancel_request, write_cancel_request

PATIENCE = 30.0
"""Seconds to wait for workers that were asked: they answer after a step of training and the writing of a checkpoint."""

_LOOK_AGAIN = 0.2


class Jobs(Protocol):
    """Cluster jobs that run these runs, as cancelling needs them."""

    def waiting(self) -> Mapping[str, Sequence[RunFolder]]:
        """Jobs that haven't begun → the runs that each is to run."""

    def running(self) -> Mapping[str, Sequence[RunFolder]]:
        """Jobs that have begun → the runs that each is at, was at, or is to run."""

    def cancel(self, jobs: Sequence[str]) -> str | None:
        """End these jobs; why that failed, or None."""


@dataclass(frozen=True)
class Cancelled:
    """What cancelling a run did.

    Attributes:
        run: its name.
        did: `cancelled`; `stopping`, where its worker has been asked and hasn't answered; or `nothing`.
        said: the same in a few words, for a person.
    """

    run: str
    did: Literal["cancelled", "stopping", "nothing"]
    said: str


def request(run: RunFolder, attempt: int, reason: str) -> None:
    """Ask the worker that makes this attempt at a run to checkpoint and leave it."""
    write_cancel_request(run.path, CancelRequest(attempt, reason, time.time()))


def requested(run: RunFolder, attempt: int) -> str | None:
    """The reason with which this attempt at a run was asked to end; None if it wasn't."""
    request = read_cancel_request(run.path)
    return request.reason if request is not None and request.attempt == attempt else None


def cancel(
    runs: Sequence[RunFolder],
    *,
    jobs: Sequence[Jobs] = (),
    patience: float = PATIENCE,
    on_wait: Callable[[int], None] = lambda count: None,
) -> tuple[list[Cancelled], list[str]]:
    """Cancel these runs and no others; nothing that has its result, or failed, is touched.

    Args:
        runs: the runs.
        jobs: jobs that are at them, of each launcher.
        patience: seconds to wait for workers to answer. After it, jobs that are at nothing but these runs are ended by
            the cluster, and other workers are left to answer when they can.
        on_wait: called once, with how many are waited for.
    Returns:
        what was done, a run at a time, and lines on what couldn't be done.
    """
    reason = f"cancelled by {_me()}"
    done: dict[RunFolder, Cancelled] = {}
    asked: set[RunFolder] = set()
    notes: list[str] = []
    runs = list(dict.fromkeys(runs))

    def look() -> list[RunFolder]:
        for run in runs:
            if run not in done and (found := _cancel(run, reason, asked)) is not None:
                done[run] = found
        return [run for run in runs if run not in done]

    held = look()
    for each in jobs:
        _end(each, each.waiting(), runs, [], notes)
    if held:
        on_wait(len(held))
        held = _wait(look, patience)
    ended = [each for each in jobs if held and _end(each, each.running(), held, held, notes)]
    if ended:
        held = _wait(look, patience)  # the cluster ends them by SIGTERM, and by SIGKILL some seconds later
    for run in held:
        done[run] = _stopping(run)
    return [done[run] for run in runs], notes


def _cancel(run: RunFolder, reason: str, asked: set[RunFolder]) -> Cancelled | None:
    """Cancel a run that nobody holds; ask the worker of one that is held, and give None."""
    claim = Claim.take(run.path)
    if claim is None:
        state = run.state
        # Between its claim and its first state, a worker hasn't counted its attempt yet.
        attempt = state.attempts if state.status == "running" else state.attempts + 1
        if requested(run, attempt) is None:
            request(run, attempt, reason)
        asked.add(run)
        return None
    with claim:
        state = run.state
        if state.status == "cancelled":
            stopped = Cancelled(run.name, "cancelled", f"stopped{_step(state)}")
            return stopped if run in asked else _nothing(run, "cancelled before")
        if state.ended:
            return _nothing(run, f"has its result: {state.status}")
        if state.status == "failed":
            return _nothing(run, "failed already")
        run.state = state.replace(status="cancelled", reason=reason, failure=None)
    return Cancelled(run.name, "cancelled", f"was {state.status}{_step(state)}")


def _end(
    jobs: Jobs,
    found: Mapping[str, Sequence[RunFolder]],
    asked: Sequence[RunFolder],
    besides: Sequence[RunFolder],
    notes: list[str],
) -> bool:
    """End those jobs of the runs that were asked for that have nothing left to do but perhaps the runs `besides`."""
    wanted = [
        job
        for job, runs in found.items()
        if any(run in asked for run in runs) and all(run in besides or not _open(run) for run in runs)
    ]
    failed = jobs.cancel(wanted) if wanted else None
    if failed is not None:
        notes.append(f"job{'s' if len(wanted) > 1 else ''} {', '.join(wanted)} could not be cancelled: {failed}")
    return bool(wanted) and failed is None


def _open(run: RunFolder) -> bool:
    state = run.state
    return not state.ended and state.status not in ("failed", "cancelled")


def _wait(look: Callable[[], list[RunFolder]], patience: float) -> list[RunFolder]:
    deadline = time.monotonic() + patience
    while (held := look()) and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN)
    return held


def _stopping(run: RunFolder) -> Cancelled:
    who = holder(run.path)
    where = f" (process {who.process.pid} on {who.process.host})" if who and who.process.host else ""
    return Cancelled(run.name, "stopping", f"asked to stop; its worker{where} answers after the step that it is at")


def _nothing(run: RunFolder, said: str) -> Cancelled:
    return Cancelled(run.name, "nothing", said)


def _step(state: State) -> str:
    progress = state.progress
    return f" at step {progress.step:,} of {progress.steps:,}" if progress else ""


def _me() -> str:
    with contextlib.suppress(OSError, KeyError):  # a user id without a name
        return f"{getpass.getuser()} on {socket.gethostname()}"
    return f"somebody on {socket.gethostname()}"

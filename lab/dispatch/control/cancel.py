"""Cancels runs: a running one writes a checkpoint and stops, and the other runs of its job continue.

A run that no worker has claimed is marked in its state file. For a claimed run, a request is written to its folder; its
worker, on whatever machine, reads it at its next heartbeat. A cluster job is cancelled only if all of its remaining
runs are to be cancelled.
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
"""Seconds to wait for workers to stop: they finish a training step and write a checkpoint first."""

_POLL_SECONDS = 0.2


class Jobs(Protocol):
    """The cluster jobs of one launcher, as far as `cancel` needs them."""

    def waiting(self) -> Mapping[str, Sequence[RunFolder]]:
        """Job that hasn't started → its runs."""

    def running(self) -> Mapping[str, Sequence[RunFolder]]:
        """Job that has started → its runs: past, present and future."""

    def cancel(self, jobs: Sequence[str]) -> str | None:
        """Cancel these jobs. Returns the reason if that failed, otherwise None."""


@dataclass(frozen=True)
class CancelOutcome:
    """What cancelling a run did.

    Attributes:
        run: its name.
        action: `cancelled`; `stopping` if its worker has been asked to stop and hasn't stopped yet; or `nothing`.
        message: details, for the user.
    """

    run: str
    action: Literal["cancelled", "stopping", "nothing"]
    message: str


def request(run: RunFolder, attempt: int, reason: str) -> None:
    """Ask the worker of this attempt at a run to write a checkpoint and stop."""
    write_cancel_request(run.path, CancelRequest(attempt, reason, time.time()))


def requested(run: RunFolder, attempt: int) -> str | None:
    """The reason why this attempt at a run was asked to stop; None if it wasn't."""
    request = read_cancel_request(run.path)
    return request.reason if request is not None and request.attempt == attempt else None


def cancel(
    runs: Sequence[RunFolder],
    *,
    jobs: Sequence[Jobs] = (),
    patience: float = PATIENCE,
    on_wait: Callable[[int], None] = lambda count: None,
) -> tuple[list[CancelOutcome], list[str]]:
    """Cancel these runs and no others. Finished and failed runs are left as they are.

    Args:
        runs: the runs.
        jobs: the jobs of each launcher.
        patience: seconds to wait for workers to stop. After that, jobs that have no other runs are cancelled on the
            cluster. Other workers stop when they can.
        on_wait: called once, with the number of runs that are waited for.
    Returns:
        the outcome for each run, and notes on what couldn't be done.
    """
    reason = f"cancelled by {_user()}"
    outcomes: dict[RunFolder, CancelOutcome] = {}
    requested_runs: set[RunFolder] = set()
    notes: list[str] = []
    runs = list(dict.fromkeys(runs))

    def cancel_unclaimed() -> list[RunFolder]:
        """Cancel what can be cancelled now. Returns the runs that workers still hold."""
        for run in runs:
            if run not in outcomes and (outcome := _cancel(run, reason, requested_runs)) is not None:
                outcomes[run] = outcome
        return [run for run in runs if run not in outcomes]

    claimed = cancel_unclaimed()
    for launcher_jobs in jobs:
        _cancel_jobs(launcher_jobs, launcher_jobs.waiting(), runs, [], notes)
    if claimed:
        on_wait(len(claimed))
        claimed = _wait(cancel_unclaimed, patience)
    has_cancelled_jobs = [
        _cancel_jobs(launcher_jobs, launcher_jobs.running(), claimed, claimed, notes)
        for launcher_jobs in jobs
        if claimed
    ]
    if any(has_cancelled_jobs):
        claimed = _wait(cancel_unclaimed, patience)  # the cluster sends SIGTERM, and SIGKILL some seconds later
    for run in claimed:
        outcomes[run] = _stopping(run)
    return [outcomes[run] for run in runs], notes


def _cancel(run: RunFolder, reason: str, requested_runs: set[RunFolder]) -> CancelOutcome | None:
    """Cancel a run that no worker has claimed. Ask the worker of a claimed one to stop, and return None."""
    claim = Claim.take(run.path)
    if claim is None:
        state = run.state
        # A worker that has claimed the run but not yet written its state hasn't counted its attempt.
        attempt = state.attempts if state.status == "running" else state.attempts + 1
        if requested(run, attempt) is None:
            request(run, attempt, reason)
        requested_runs.add(run)
        return None
    with claim:
        state = run.state
        if state.status == "cancelled":
            stopped = CancelOutcome(run.name, "cancelled", f"stopped{_step(state)}")
            return stopped if run in requested_runs else _nothing(run, "cancelled before")
        if state.ended:
            return _nothing(run, f"has its result: {state.status}")
        if state.status == "failed":
            return _nothing(run, "failed already")
        run.state = state.replace(status="cancelled", reason=reason, failure=None)
    return CancelOutcome(run.name, "cancelled", f"was {state.status}{_step(state)}")


def _cancel_jobs(
    jobs: Jobs,
    runs_by_job: Mapping[str, Sequence[RunFolder]],
    cancelled: Sequence[RunFolder],
    claimed: Sequence[RunFolder],
    notes: list[str],
) -> bool:
    """Cancel the jobs of the cancelled runs that have no other unfinished runs than claimed ones. True if any was."""
    ids = [
        job
        for job, runs in runs_by_job.items()
        if any(run in cancelled for run in runs) and all(run in claimed or not _is_open(run) for run in runs)
    ]
    error = jobs.cancel(ids) if ids else None
    if error is not None:
        notes.append(f"job{'s' if len(ids) > 1 else ''} {', '.join(ids)} could not be cancelled: {error}")
    return bool(ids) and error is None


def _is_open(run: RunFolder) -> bool:
    state = run.state
    return not state.ended and state.status not in ("failed", "cancelled")


def _wait(cancel_unclaimed: Callable[[], list[RunFolder]], patience: float) -> list[RunFolder]:
    deadline = time.monotonic() + patience
    while (claimed := cancel_unclaimed()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return claimed


def _stopping(run: RunFolder) -> CancelOutcome:
    claim = holder(run.path)
    where = f" (process {claim.process.pid} on {claim.process.host})" if claim and claim.process.host else ""
    return CancelOutcome(run.name, "stopping", f"asked to stop; its worker{where} stops after its current step")


def _nothing(run: RunFolder, message: str) -> CancelOutcome:
    return CancelOutcome(run.name, "nothing", message)


def _step(state: State) -> str:
    progress = state.progress
    return f" at step {progress.step:,} of {progress.steps:,}" if progress else ""


def _user() -> str:
    with contextlib.suppress(OSError, KeyError):  # a user id without a name
        return f"{getpass.getuser()} on {socket.gethostname()}"
    return f"a user on {socket.gethostname()}"

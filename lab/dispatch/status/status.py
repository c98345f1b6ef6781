"""The status of runs as rows of a table, read from their folders.

A state file holds what its last writer knew. If that process is gone, the file says `running` for ever. The run's claim
shows that the run is lost.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab.dispatch.worker.claim import holder
from lab.records import STATUSES, Failure, Phase, RunFolder, RunSnapshot, State, Status

VERSION = 1


@dataclasses.dataclass(frozen=True)
class StatusRow:
    """The present status of a run.

    Attributes:
        run: `sweep/arm/seed-n`, its path below the root.
        status: as in its state file, but `lost` if that says running and no worker runs it.
        heartbeat_age: seconds since the last heartbeat; None before the first.
        loss: of the last known step, in nats per token.
        eta: remaining seconds, with validation, checkpoints and evaluations; None unless it is running and all of them
            are known.
        training_eta: the same without evaluations.
        phase: what a running run is doing: start-up, training, validation, checkpoints or evaluations.
        evaluation, evaluation_number, evaluation_done: the evaluation that is running or in which the run stopped, its
            number from 1, and the share of it that is done; None if there is none.
        evaluations: the number of evaluations at the end of the run; None if it isn't known.
        job: the launcher's id of the job that runs or last ran it, or None.
        job_state: in the launcher's words; None if unknown.
        waits_for: why it waits to be run, in the launcher's words (Priority, Resources, …), or None.
    """

    run: str
    sweep: str
    arm: str
    seed: int | None
    identity: str
    status: Status
    attempts: int
    reason: str | None
    failure: Failure | None
    host: str | None
    pid: int | None
    heartbeat_age: float | None
    step: int | None
    steps: int | None
    tokens: int | None
    loss: float | None
    tokens_per_second: float | None
    eta: float | None
    job: str | None = None
    job_state: str | None = None
    waits_for: str | None = None
    training_eta: float | None = None
    phase: Phase | None = None
    evaluation: str | None = None
    evaluation_number: int | None = None
    evaluation_done: float | None = None
    evaluations: int | None = None

    @property
    def open(self) -> bool:
        """Whether it is running, or will run without a user's action, as far as is known."""
        if self.status in ("queued", "preempted"):
            return self.job_state is None or self.waits_for is not None  # otherwise its job has ended
        return self.status == "running" or (self.status == "lost" and self.waits_for is not None)


_WITHIN_A_PHASE: tuple[Status, ...] = ("running", "preempted", "lost", "failed")
"""The statuses of runs that stand, or stopped, somewhere in their work."""


def read_row(run: RunFolder) -> StatusRow:
    """The row of a run.

    Raises:
        BrokenRecord: its files can't be read.
    """
    return row_from(RunSnapshot(run, run.record, run.state))


def row_from(snapshot: RunSnapshot) -> StatusRow:
    """The row of a run whose record and state have just been read."""
    run, record, state = snapshot.run, snapshot.record, live(snapshot.run, snapshot.state)
    progress = state.progress
    evaluation = progress.evaluation if progress else None
    running = state.status == "running"
    if state.status not in _WITHIN_A_PHASE:
        evaluation = None
    return StatusRow(
        run=run.name,
        sweep=record.sweep or run.path.parts[-3],
        arm=record.arm or run.path.parts[-2],
        seed=record.seed,
        identity=record.identity,
        status=state.status,
        attempts=state.attempts,
        reason=state.reason,
        failure=state.failure,
        host=state.host,
        pid=state.pid,
        heartbeat_age=max(0.0, time.time() - state.heartbeat) if state.heartbeat else None,
        step=progress.step if progress else None,
        steps=progress.steps if progress else None,
        tokens=progress.tokens if progress else None,
        loss=progress.loss if progress else None,
        tokens_per_second=progress.tokens_per_second if progress and running else None,
        eta=state.eta() if running else None,
        training_eta=state.training_eta() if running else None,
        phase=(progress.phase if progress else "start-up") if running else None,
        evaluation=evaluation.name if evaluation else None,
        evaluation_number=evaluation.number if evaluation else None,
        evaluation_done=evaluation.done if evaluation else None,
        evaluations=progress.evaluations if progress else None,
    )


def live_state(run: RunFolder) -> State:
    """A run's state, but `lost` with a reason if it says running and no worker runs it."""
    return live(run, run.state)


def live(run: RunFolder, state: State) -> State:
    """The same as `live_state`, for a state that has just been read."""
    if state.status != "running" or holder(run.path) is not None:
        return state
    latest = run.state  # a worker writes the final state, then releases its claim: it may have done both by now
    if latest.status != "running":
        return latest
    silence = f"for {time.time() - latest.heartbeat:.0f} s" if latest.heartbeat else "since its start"
    reason = f"no heartbeat {silence} from process {latest.pid} on {latest.host}"
    return latest.replace(status="lost", failure="interrupted", reason=reason)


def counts(rows: Iterable[StatusRow]) -> dict[Status, int]:
    """Status → number of runs, without statuses that no run has."""
    numbers = Counter(row.status for row in rows)
    return {status: numbers[status] for status in STATUSES if numbers[status]}


def to_json(
    rows: Sequence[StatusRow], broken: Sequence[tuple[Path, str]] = (), notes: Sequence[str] = ()
) -> dict[str, object]:
    """The JSON of `lab status --json`. Field names change only with the version. A loss that isn't finite is null.

    Args:
        rows: the runs.
        broken: folders that can't be read, from `lab.records.survey`.
        notes: what a launcher couldn't find out.
    """
    return {
        "version": VERSION,
        "runs": [{key: _finite(value) for key, value in dataclasses.asdict(row).items()} for row in rows],
        "counts": counts(rows),
        "broken": [{"path": str(path), "reason": reason} for path, reason in broken],
        "notes": list(notes),
    }


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value

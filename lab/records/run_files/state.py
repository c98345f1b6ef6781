"""state.json: the status of a run, rewritten as a whole by the one process that holds the run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict, TypeGuard, Unpack, get_args

from lab.records.atomic import write_json
from lab.records.checks import BrokenRecord, Fields, WrongValue, parse
from lab.records.run_files.progress import Progress, read_progress, read_seconds

STATE_FILE = "state.json"
VERSION = 2

Status = Literal["queued", "running", "finished", "diverged", "failed", "preempted", "blocked", "lost", "cancelled"]
Failure = Literal[
    "out_of_memory", "disk_full", "time", "bug", "interrupted", "node_lost", "cancelled", "other_code", "refused"
]

STATUSES: tuple[Status, ...] = get_args(Status)
FAILURES: tuple[Failure, ...] = get_args(Failure)


class StateChanges(TypedDict, total=False):
    """Fields of a state that change, for `State.replace`."""

    status: Status
    attempts: int
    reason: str | None
    failure: Failure | None
    heartbeat: float | None
    host: str | None
    pid: int | None
    progress: Progress | None
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of a run.

    Attributes:
        status: queued, running, finished, diverged, failed, preempted, blocked, lost or cancelled.
        attempts: how many times a worker has begun the run.
        reason: why it is blocked, failed, diverged, preempted, lost or cancelled, in one line for a person.
        failure: the kind of failure, which decides about retries: out_of_memory, disk_full, time (a time limit before
            the first checkpoint), bug, interrupted (its worker is gone), node_lost (its machine is gone), cancelled (by
            an operator of the cluster, or with the cluster's own commands), other_code (its worker refused it because
            the code differs, and the run was not begun), refused (it asks for something that can't be done, such as a
            text that has changed).
        heartbeat: unix seconds of the worker's last heartbeat.
        host: name of the machine that runs it, or ran it last.
        pid: id of the worker's process on that host.
        progress: the last known progress, kept when the run stops.
        seconds: phase → seconds of all attempts so far; an evaluation has a part of its own, `evaluations/NAME`. Empty
            in files of earlier versions.
        cpu_seconds: phase → processor seconds of the process that held the run, all attempts; empty in earlier files.
    """

    status: Status = "queued"
    attempts: int = 0
    reason: str | None = None
    failure: Failure | None = None
    heartbeat: float | None = None
    host: str | None = None
    pid: int | None = None
    progress: Progress | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_status(self.status):
            raise WrongValue("status", f"'{self.status}' is none of {', '.join(STATUSES)}")
        if self.failure is not None and self.failure not in FAILURES:
            raise WrongValue("failure", f"'{self.failure}' is none of {', '.join(FAILURES)}")

    @property
    def ended(self) -> bool:
        """Whether the run has its result: it finished or diverged. Such a run is never run again."""
        return self.status in ("finished", "diverged")

    def replace(self, **changes: Unpack[StateChanges]) -> State:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def eta(self) -> float | None:
        """Seconds left, with validation, checkpoints and evaluations; None where a part of them isn't known."""
        left = self.training_eta()
        p = self.progress
        if p is None or left is None:
            return None
        if p.evaluation_seconds is None:
            return left if not p.evaluations else None
        return left + p.evaluation_seconds

    def training_eta(self) -> float | None:
        """Seconds of training left at the present speed, with validation and checkpoints; None where not known."""
        p = self.progress
        if p is None or not p.step:
            return None
        steps = p.steps - p.step
        if not steps:
            return p.seconds_after_steps
        if not p.tokens_per_second or not math.isfinite(p.tokens_per_second):
            return None
        return steps * (p.tokens / p.step) / p.tokens_per_second + p.seconds_after_steps


def is_status(value: object) -> TypeGuard[Status]:
    """Whether a value is the name of a status."""
    return value in STATUSES


def read_state(path: Path) -> State:
    """Read a run's state. A run without the file is queued.

    Raises:
        BrokenRecord: the file can't be read, or isn't a state.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return State()
    except (PermissionError, IsADirectoryError) as error:  # other errors may be temporary on a network file system
        raise BrokenRecord(path, str(error.strerror)) from None
    return parse(path, content, _state, newest=VERSION, what="a run state")


def write_state(path: Path, state: State) -> None:
    """Replace the state in one step."""
    write_json(path, {"version": VERSION, **dataclasses.asdict(state)})


_OLD_REFUSAL = "refused: made with "
"""Earlier versions had no failure `other_code`: they recorded a reason that begins with this."""

_KEYS = ("version", *(field.name for field in dataclasses.fields(State)))


def _state(fields: Fields) -> State:
    if "version" not in fields:
        raise WrongValue("version", "expected 1, and it is missing")
    if unknown := fields.others(_KEYS):
        raise WrongValue(next(iter(unknown)), "is no key of a run state")
    status, failure, reason = (
        fields.text("status", "queued"),
        fields.text_or_none("failure"),
        fields.text_or_none("reason"),
    )
    if failure is None and reason is not None and reason.startswith(_OLD_REFUSAL):
        failure, reason = "other_code", reason.removeprefix("refused: ")
    attempts = fields.integer("attempts", 0)
    if attempts < 0:
        raise fields.wrong("attempts", "a whole number from 0 up")
    return State(
        status=status,  # type: ignore[arg-type]  # the state checks both
        attempts=attempts,
        reason=reason,
        failure=failure,  # type: ignore[arg-type]
        heartbeat=fields.finite_or_none("heartbeat"),
        host=fields.text_or_none("host"),
        pid=fields.integer_or_none("pid"),
        progress=None if fields.any("progress") is None else read_progress(fields.fields("progress")),
        seconds=read_seconds(fields, "seconds"),
        cpu_seconds=read_seconds(fields, "cpu_seconds"),
    )

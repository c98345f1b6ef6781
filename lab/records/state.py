"""Where a run stands: `state.json`, rewritten as a whole by the one process that holds the run."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from lab.records.atomic import write_json

VERSION = 1

Status = Literal["queued", "running", "finished", "diverged", "failed", "preempted", "blocked", "lost", "cancelled"]
Failure = Literal["out_of_memory", "disk_full", "time", "bug", "interrupted", "node_lost", "cancelled"]

STATUSES: tuple[Status, ...] = get_args(Status)
FAILURES: tuple[Failure, ...] = get_args(Failure)


class Progress(TypedDict):
    """How far a run has come. `loss` in nats per token; None where not measured yet."""

    step: int
    steps: int
    tokens: int
    loss: float | None
    tokens_per_second: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """One state of a run.

    Attributes:
        status: queued, running, finished, diverged, failed, preempted, blocked, lost or cancelled.
        attempts: how many times a worker has begun the run.
        reason: one line for a person: why it is blocked, failed, diverged, preempted, lost or cancelled.
        failure: what kind of failure, for policies: out_of_memory, disk_full, time (a time limit before it could
            checkpoint), bug, interrupted (its worker is gone), node_lost (with its machine), cancelled (whoever runs
            the cluster, or its user by the cluster's own commands).
        heartbeat: unix seconds of the last sign of life.
        host: name of the machine that runs, or last ran, it.
        pid: process on that host.
        progress: the last known progress, kept when the run stops.
    """

    status: Status = "queued"
    attempts: int = 0
    reason: str | None = None
    failure: Failure | None = None
    heartbeat: float | None = None
    host: str | None = None
    pid: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status: '{self.status}' is none of {', '.join(STATUSES)}")
        if self.failure is not None and self.failure not in FAILURES:
            raise ValueError(f"failure: '{self.failure}' is none of {', '.join(FAILURES)}")

    @property
    def ended(self) -> bool:
        """Whether the run has given its result: finished or diverged. Such a run is never run again."""
        return self.status in ("finished", "diverged")

    def replace(self, **changes: Any) -> State:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def eta(self) -> float | None:
        """Seconds of training still to go at the present speed; None where that is unknown."""
        p = self.progress
        if p is None or not p["step"] or not p["tokens_per_second"] or not math.isfinite(p["tokens_per_second"]):
            return None
        return (p["steps"] - p["step"]) * (p["tokens"] / p["step"]) / p["tokens_per_second"]


def read_state(path: Path) -> State:
    """The state in a `state.json`; a run whose file is missing has never been touched: queued.

    Raises:
        ValueError: the file can't be read, or is not a state of this version; the message names the file.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return State()
    except (PermissionError, IsADirectoryError) as error:  # others may pass, as on a network's file system
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict) or data.pop("version", None) != VERSION:
        raise ValueError(f"{path}: not a run state of version {VERSION}")
    try:
        _check_types(data)
        return State(**data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _check_types(data: dict[str, Any]) -> None:
    """Refuse a value that no worker writes: whoever reads a state counts and subtracts with it.

    Raises:
        ValueError: naming the first.
    """
    for key, value in data.items():
        if key == "progress" and isinstance(value, dict):
            if not all(_is_finite(value.get(name)) for name in ("step", "steps", "tokens")):
                raise ValueError("progress: must have its step, steps and tokens, as numbers")
            if not all(_is_number(value.get(name), or_none=True) for name in ("loss", "tokens_per_second")):
                raise ValueError("progress: loss and tokens_per_second must be numbers or null")
        elif key in _TYPES and not _TYPES[key][1](value):
            raise ValueError(f"{key}: expected {_TYPES[key][0]}, got {json.dumps(value)[:80]}")


def _is_number(value: Any, *, or_none: bool = False) -> bool:
    return (or_none and value is None) or type(value) in (int, float)


def _is_finite(value: Any) -> bool:
    """Whether it is a number that any arithmetic can be done with: JSON knows NaN and integers of any length."""
    return _is_number(value) and abs(value) < _LARGEST


_LARGEST = 2**63
_TEXT = ("a text or null", lambda value: value is None or isinstance(value, str))
_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "status": ("a text", lambda value: isinstance(value, str)),
    "attempts": ("a whole number", lambda value: type(value) is int and 0 <= value < _LARGEST),
    "reason": _TEXT,
    "failure": _TEXT,
    "heartbeat": ("seconds or null", lambda value: value is None or _is_finite(value)),
    "host": _TEXT,
    "pid": ("a whole number or null", lambda value: value is None or type(value) is int),
    "progress": ("a mapping or null", lambda value: value is None),
}


def write_state(path: Path, state: State) -> None:
    """Replace the state in one step."""
    write_json(path, {"version": VERSION, **dataclasses.asdict(state)})

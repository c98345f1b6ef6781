"""What training says while it goes on, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lab.records import Summary


class Stopped(Exception):
    """An evaluation was asked to stop; what it had done is kept, and the next one goes on from there."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        status: `finished` (the budget is spent), `diverged` (a loss or gradient is not finite), or `preempted`
            (stopped when asked to, with a checkpoint to go on from).
        reason: why, in words; None when finished.
        summary: what summary.json holds, which a preempted run does not write.
    """

    status: Literal["finished", "diverged", "preempted"]
    reason: str | None
    summary: Summary = field(default_factory=Summary)

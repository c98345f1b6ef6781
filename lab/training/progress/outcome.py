"""What training says while it goes on, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        steps: optimizer steps in the budget.
        tokens: training tokens done.
        loss: training loss of the last step, nats per token; None before the first of this attempt.
        tokens_per_second: of this attempt, without validation and checkpoints; None until it is known.
    """

    step: int
    steps: int
    tokens: int
    loss: float | None = None
    tokens_per_second: float | None = None


class Stopped(Exception):
    """An evaluation was asked to stop; what it had done is kept, and the next one goes on from there."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        status: `finished` (the budget is spent), `diverged` (a loss or gradient is not finite), or `preempted`
            (stopped when asked to, with a checkpoint to go on from).
        reason: why, in words; None when finished.
        summary: the contents of summary.json, which a preempted run does not write.
    """

    status: Literal["finished", "diverged", "preempted"]
    reason: str | None
    summary: dict[str, Any]

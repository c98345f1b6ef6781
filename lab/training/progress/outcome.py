"""How training ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lab.records import Summary


class Stopped(Exception):
    """An evaluation was stopped on request. Its finished parts are stored for the next evaluation."""


@dataclass(frozen=True)
class Outcome:
    """The result of a call of `train`.

    Attributes:
        status: `finished` (the budget is spent), `diverged` (a loss or gradient is not finite), or `preempted`
            (stopped on request, with a checkpoint to resume from).
        reason: why the run isn't finished; None if it is.
        summary: the content of summary.json. A preempted run doesn't write that file.
    """

    status: Literal["finished", "diverged", "preempted"]
    reason: str | None
    summary: Summary = field(default_factory=Summary)

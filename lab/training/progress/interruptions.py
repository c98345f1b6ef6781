"""The seconds of validations and checkpoints, from which those that are still to come are estimated."""

from __future__ import annotations

from typing import Literal

Interruption = Literal["validation", "checkpoints"]


class Interruptions:
    """Counts what stops the steps of an attempt, and how long."""

    def __init__(self) -> None:
        self._seconds: dict[Interruption, list[float]] = {"validation": [], "checkpoints": []}

    def note(self, kind: Interruption, seconds: float) -> None:
        """Note one validation or one checkpoint."""
        self._seconds[kind].append(seconds)

    def seconds_left(self, validations: int) -> float:
        """Seconds of so many more validations, and of a checkpoint at the end if any is left; 0 for what is unknown."""
        checkpoints = 1 if validations else 0
        return validations * self._mean("validation") + checkpoints * self._mean("checkpoints")

    def _mean(self, kind: Interruption) -> float:
        seconds = self._seconds[kind]
        return sum(seconds) / len(seconds) if seconds else 0.0

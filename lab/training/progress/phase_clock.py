"""Where the seconds of a run go: a clock that is always in one phase, so that the phases add up to the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from lab.records import Progress


class PhaseClock:
    """Adds up the seconds of each phase, on top of those of earlier attempts. It begins with the start-up.

    Args:
        earlier: phase → seconds of earlier attempts.
        since: the beginning of the attempt, by `now`; now by default.
        now: returns seconds that never go back; `time.monotonic` by default.
    """

    def __init__(
        self,
        earlier: Mapping[str, float] | None = None,
        *,
        since: float | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._seconds = dict(earlier or {})
        self._now = now or time.monotonic
        self._phase, self._since = "start-up", self._now() if since is None else since

    def note(self, progress: Progress) -> None:
        """Enter the phase of a progress. Each evaluation counts on its own."""
        evaluation = progress.evaluation
        is_evaluating = progress.phase == "evaluations" and evaluation is not None
        self._enter(f"evaluations/{evaluation.name}" if is_evaluating and evaluation else progress.phase)

    def seconds(self) -> dict[str, float]:
        """Phase → seconds up to now."""
        self._enter(self._phase)
        return dict(self._seconds)

    def _enter(self, phase: str) -> None:
        now = self._now()
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

"""Where the seconds of a process go: a clock that is always in one phase, so that the phases add up to the whole.

It counts wall-clock seconds and the processor's. On a busy machine only the latter say what a phase costs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar

from lab.records import Progress

START_UP = "start-up"


class PhaseClock:
    """Adds up the seconds of each phase, on top of those of earlier attempts. It begins with the start-up.

    A phase may have parts, such as `start-up/data`, which count on their own. Safe to use from several threads.

    Args:
        earlier, earlier_cpu: phase → wall-clock seconds, and processor seconds, of earlier attempts.
        since, since_cpu: the beginning of the attempt, by `now` and `cpu`; now by default.
        now: returns seconds that never go back; `time.monotonic` by default.
        cpu: returns the processor seconds of the process, of all its threads; `time.process_time` by default.
        phase: the first phase.
    """

    def __init__(
        self,
        earlier: Mapping[str, float] | None = None,
        earlier_cpu: Mapping[str, float] | None = None,
        *,
        since: float | None = None,
        since_cpu: float | None = None,
        now: Callable[[], float] | None = None,
        cpu: Callable[[], float] | None = None,
        phase: str = START_UP,
    ) -> None:
        self._seconds, self._cpu_seconds = dict(earlier or {}), dict(earlier_cpu or {})
        self._now, self._cpu = now or time.monotonic, cpu or time.process_time
        self._phase, self._part = phase, ""
        self._since = self._now() if since is None else since
        self._since_cpu = self._cpu() if since_cpu is None else since_cpu
        self._lock = threading.RLock()

    def note(self, progress: Progress) -> None:
        """Enter the phase of a progress. Each evaluation counts on its own."""
        evaluation = progress.evaluation
        is_evaluating = progress.phase == "evaluations" and evaluation is not None
        self.enter(f"evaluations/{evaluation.name}" if is_evaluating and evaluation else progress.phase)

    def enter(self, phase: str) -> None:
        """Enter a phase."""
        with self._lock:
            self._count()
            self._phase = phase

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the seconds inside as those of `name`, whatever the phase."""
        with self._lock:
            self._count()
            outer, self._part = self._part, name
        try:
            yield
        finally:
            with self._lock:
                self._count()
                self._part = outer

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Make this the clock of `part` in this thread."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def seconds(self) -> dict[str, float]:
        """Phase → wall-clock seconds up to now."""
        with self._lock:
            self._count()
            return dict(self._seconds)

    def cpu_seconds(self) -> dict[str, float]:
        """Phase → processor seconds of this process up to now."""
        with self._lock:
            self._count()
            return dict(self._cpu_seconds)

    def _count(self) -> None:
        now, cpu, phase = self._now(), self._cpu(), self._part or self._phase
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._since
        self._cpu_seconds[phase] = self._cpu_seconds.get(phase, 0.0) + cpu - self._since_cpu
        self._since, self._since_cpu = now, cpu


_current: ContextVar[PhaseClock | None] = ContextVar("phase_clock", default=None)


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """Count the seconds inside as those of this part of the run, such as `start-up/data`.

    Does nothing outside of a run that is counted.
    """
    clock = _current.get()
    with contextlib.nullcontext() if clock is None else clock.part(name):
        yield

"""Training time and throughput over all attempts of a run, without validation and checkpoints."""

from __future__ import annotations

import time
from typing import TypedDict

UNMEASURED_STEPS = 3
"""Steps at the start of an attempt that count as time but not as speed, because caches and kernels warm up."""


class StopwatchState(TypedDict):
    """The state of a stopwatch in a checkpoint: training time, and the time and tokens of the measured steps."""

    seconds: float
    timed_seconds: float
    timed_tokens: int


class Stopwatch:
    """Measures the time from `start` to `lap`, once per step. Time between `lap` and `start` is not training.

    Attributes:
        seconds: training time so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._timed_seconds = 0.0
        self._timed_tokens = 0
        self._steps = 0
        self._mark = (0.0, 0)
        self._start_time: float | None = None

    def start(self) -> None:
        """Start the clock of a step."""
        self._start_time = time.perf_counter()

    def lap(self, tokens: int) -> None:
        """End a step of `tokens` tokens, and stop the clock until the next `start`.

        Raises:
            RuntimeError: the clock isn't running.
        """
        if self._start_time is None:
            raise RuntimeError("a lap needs a start")
        seconds = time.perf_counter() - self._start_time
        self._start_time = None
        self.seconds += seconds
        self._steps += 1
        if self._steps > UNMEASURED_STEPS:
            self._timed_seconds += seconds
            self._timed_tokens += tokens

    @property
    def tokens_per_second(self) -> float | None:
        """Speed over all measured steps; None before the first."""
        return self._timed_tokens / self._timed_seconds if self._timed_seconds else None

    def since_mark(self) -> float | None:
        """Tokens per second over the measured steps since the last call; None if there are none."""
        seconds, tokens = self._timed_seconds - self._mark[0], self._timed_tokens - self._mark[1]
        self._mark = (self._timed_seconds, self._timed_tokens)
        return tokens / seconds if seconds else None

    def state_dict(self) -> StopwatchState:
        return {"seconds": self.seconds, "timed_seconds": self._timed_seconds, "timed_tokens": self._timed_tokens}

    def load_state_dict(self, state: StopwatchState) -> None:
        self.seconds = state["seconds"]
        self._timed_seconds, self._timed_tokens = state["timed_seconds"], state["timed_tokens"]
        self._mark = (self._timed_seconds, self._timed_tokens)

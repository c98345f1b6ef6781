"""Training time and throughput, over all attempts of a run, apart from validation and checkpoints."""

from __future__ import annotations

import time
from typing import TypedDict

UNMEASURED_STEPS = 3
"""Steps at the start of an attempt that count as time but not as speed: memory, caches and kernels settle in them."""


class StopwatchState(TypedDict):
    """What a checkpoint keeps of a stopwatch: training time, and the measured part of it with its tokens."""

    seconds: float
    timed_seconds: float
    timed_tokens: int


class Stopwatch:
    """Runs from `start` to `lap`, once for each step; what happens in between laps is not training.

    Attributes:
        seconds: training time so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._timed_seconds = 0.0
        self._timed_tokens = 0
        self._steps = 0
        self._marked = (0.0, 0)
        self._started: float | None = None

    def start(self) -> None:
        """Training goes on from here."""
        self._started = time.perf_counter()

    def lap(self, tokens: int) -> None:
        """End a step on `tokens` tokens; the stopwatch then stands still until the next `start`."""
        if self._started is None:
            raise RuntimeError("a lap needs a start")
        seconds = time.perf_counter() - self._started
        self._started = None
        self.seconds += seconds
        self._steps += 1
        if self._steps > UNMEASURED_STEPS:
            self._timed_seconds += seconds
            self._timed_tokens += tokens

    @property
    def tokens_per_second(self) -> float | None:
        """Over all measured steps; None before the first."""
        return self._timed_tokens / self._timed_seconds if self._timed_seconds else None

    def since_mark(self) -> float | None:
        """Tokens a second over the measured steps since the last call; None if there are none."""
        seconds, tokens = self._timed_seconds - self._marked[0], self._timed_tokens - self._marked[1]
        self._marked = (self._timed_seconds, self._timed_tokens)
        return tokens / seconds if seconds else None

    def state_dict(self) -> StopwatchState:
        return {"seconds": self.seconds, "timed_seconds": self._timed_seconds, "timed_tokens": self._timed_tokens}

    def load_state_dict(self, state: StopwatchState) -> None:
        self.seconds = state["seconds"]
        self._timed_seconds, self._timed_tokens = state["timed_seconds"], state["timed_tokens"]
        self._marked = (self._timed_seconds, self._timed_tokens)

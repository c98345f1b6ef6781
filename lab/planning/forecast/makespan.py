"""The time until the last run of several has ended, with some of them at once."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

_MANY = 500
"""With more runs per worker than this, the order of the runs hardly changes when the last one ends."""


def makespan(costs: Sequence[tuple[float, int]], parallel: int) -> float:
    """The time until the last run ends if each run starts as soon as a worker is free, in the plan's order.

    Args:
        costs: (seconds of a run, number of runs) for each arm.
        parallel: the number of workers.
    """
    if parallel == 1 or sum(runs for _, runs in costs) > _MANY * parallel:
        return math.fsum(cost * runs for cost, runs in costs) / parallel
    free = [0.0] * parallel
    for cost, runs in costs:
        for _ in range(runs):
            heapq.heapreplace(free, free[0] + cost)
    return max(free)

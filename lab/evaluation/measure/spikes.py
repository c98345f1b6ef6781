"""Spikes of a training curve, and whether a learning rate was a stable one.

OLMo 2 (2501.00656) scores a curve by the share of its values that lie at least seven standard deviations from a rolling
mean of the last 1,000. Here the median stands for the mean and 1.4826 times the median absolute deviation for the
standard deviation, which it is for normal noise (Hampel 1974): one spike would stretch a standard deviation so far
that the next ones hid below it, and runs of this lab are shorter. Only upward counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

LEAST = 10
"""Values that must stand before one for it to be judged."""
_NORMAL = 1.4826


def spikes(values: Sequence[float], history: int, deviations: float) -> list[int]:
    """Which values are more than so many deviations above the median of the `history` values before them.

    Where those are all the same, any higher value is.

    Returns:
        Their places; never one of the first LEAST.
    """
    found = []
    for place in range(LEAST, len(values)):
        before = values[max(0, place - history) : place]
        median = statistics.median(before)
        spread = _NORMAL * statistics.median(abs(value - median) for value in before)
        if values[place] - median > deviations * spread:
            found.append(place)
    return found


def ends_well(losses: Sequence[float], margin: float, floor: float) -> bool:
    """Whether a training loss ends about as low as it has ever been, and below what word counts alone give.

    Its last tenth is held against the lowest stretch of that length. A rate that is too high diverges slowly, so that
    the end is above (Wortsman et al. 2023, 2309.14322), or throws the model back on the frequencies of tokens.

    Args:
        margin: nats by which the end may lie above.
        floor: the unigram loss.
    """
    means = stretches(losses)
    return means[-1] <= min(means) + margin and means[-1] < floor


def stretches(losses: Sequence[float]) -> list[float]:
    """The mean of every stretch of a tenth of the curve, in order: the last is that of its last tenth."""
    length = max(1, len(losses) // 10)
    return [math.fsum(losses[i : i + length]) / length for i in range(len(losses) - length + 1)]


def largest_stable(tried: Sequence[tuple[float, bool]]) -> float | None:
    """The largest rate at which all runs of an arm were stable, from each run's rate and whether it was.

    A rate with fewer runs than another has lost some: they diverged, and it isn't stable.
    """
    runs: dict[float, list[bool]] = {}
    for rate, stable in tried:
        runs.setdefault(rate, []).append(stable)
    most = max(map(len, runs.values()), default=0)
    return max((rate for rate, each in runs.items() if all(each) and len(each) == most), default=None)

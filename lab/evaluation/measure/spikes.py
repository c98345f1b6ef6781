"""Spikes of a training curve, and whether a learning rate was stable.

OLMo 2 (2501.00656) reports the share of values at least seven standard deviations from a rolling mean of the last
1,000. The lab's runs are shorter, and one spike would enlarge the standard deviation so much that it hides the next
ones. So this module uses the median for the mean, and 1.4826 times the median absolute deviation for the standard
deviation; for normal noise they are equal (Hampel 1974). Only upward spikes count.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

MIN_HISTORY = 10
"""Number of values that must precede a value for it to be judged."""
_MAD_TO_DEVIATION = 1.4826


def spikes(values: Sequence[float], history: int, deviations: float) -> list[int]:
    """Find the values that are more than `deviations` above the median of the `history` values before them.

    If those values are all equal, any higher value is a spike.

    Returns:
        The indices of the spikes; never one of the first MIN_HISTORY.
    """
    indices = []
    for place in range(MIN_HISTORY, len(values)):
        before = values[max(0, place - history) : place]
        median = statistics.median(before)
        spread = _MAD_TO_DEVIATION * statistics.median(abs(value - median) for value in before)
        if values[place] - median > deviations * spread:
            indices.append(place)
    return indices


def ends_low(losses: Sequence[float], margin: float, unigram_loss: float) -> bool:
    """Whether a training loss ends near its minimum and below the unigram loss.

    Compares the mean of the last tenth with the lowest mean over a stretch of that length. If the learning rate is too
    high, the loss rises slowly (Wortsman et al. 2023, 2309.14322), or the model learns no more than token frequencies.

    Args:
        losses: training losses in nats per token, in order.
        margin: maximum difference from the lowest mean, in nats per token.
        unigram_loss: nats per token.
    """
    means = rolling_means(losses)
    return means[-1] <= min(means) + margin and means[-1] < unigram_loss


def rolling_means(losses: Sequence[float]) -> list[float]:
    """Rolling means over a tenth of the curve, in order. The last one is the mean of the last tenth."""
    length = max(1, len(losses) // 10)
    return [math.fsum(losses[i : i + length]) / length for i in range(len(losses) - length + 1)]


def largest_stable(trials: Sequence[tuple[float, bool]]) -> float | None:
    """The largest learning rate at which all runs of an arm were stable; None if there is none.

    A rate with fewer runs than another isn't stable: the missing runs have diverged.

    Args:
        trials: learning rate of each run, and whether the run was stable.
    """
    runs: dict[float, list[bool]] = {}
    for rate, stable in trials:
        runs.setdefault(rate, []).append(stable)
    most = max(map(len, runs.values()), default=0)
    return max((rate for rate, outcomes in runs.items() if all(outcomes) and len(outcomes) == most), default=None)

"""Tests and intervals that don't assume a normal distribution: the exact sign-flip test, and the bootstrap.

Both need more seeds than the t test. With fewer than six pairs no sign-flip p-value is below 0.05, since two of the 2ⁿ
choices of signs are always as extreme as the observed differences. With fewer than ten pairs the bootstrap interval is
too short: with three pairs, a 95% interval covers the true mean in 73% of cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab.comparison.statistics.paired import ROUNDING, Interval, mean_of

if TYPE_CHECKING:
    import numpy as np

SIGN_FLIP_PAIRS = 6
BOOTSTRAP_PAIRS = 10
MOST_FLIPPED = 40
"""With more pairs the exact test would take gigabytes, and the t test needs no confirmation."""
BOOTSTRAP_RESAMPLES = 9_999
SEED = 0
_DIGITS = -round(math.log10(ROUNDING))


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """The exact two-sided p-value of the hypothesis that every difference is as likely as its negative.

    It is the fraction of all 2ⁿ choices of signs whose sum is at least as far from 0 as the observed sum. The sums of
    the two halves of the pairs are combined by sorting, so that 2^(n/2) sums are enough. None with fewer than
    `SIGN_FLIP_PAIRS` or more than `MOST_FLIPPED` pairs.
    """
    import numpy as np

    n = len(differences)
    if not SIGN_FLIP_PAIRS <= n <= MOST_FLIPPED:
        return None
    # Sums that differ only by rounding count as equal.
    observed = abs(math.fsum(differences)) - ROUNDING * math.fsum(map(abs, differences))
    if observed <= 0:
        return 1.0
    first, second = _sums(differences[: n // 2]), np.sort(_sums(differences[n // 2 :]))
    as_extreme = int(np.sum(len(second) - np.searchsorted(second, observed - first, side="left")))
    return as_extreme / 2.0 ** (n - 1)


def bootstrap_interval(differences: Sequence[float], level: float) -> Interval | None:
    """The bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), from a fixed seed.

    None with fewer than `BOOTSTRAP_PAIRS` pairs. If all differences are equal up to rounding, it is a single point.
    """
    if len(differences) < BOOTSTRAP_PAIRS:
        return None
    size = max(map(abs, differences))
    if max(differences) - min(differences) <= ROUNDING * size:
        return Interval(mean_of(differences), mean_of(differences), level)
    import numpy as np
    from scipy import stats  # takes a second, so sweeps of fewer seeds don't import it

    def mean(values: np.ndarray, axis: int) -> np.ndarray:
        # The bias correction counts the resampled means below the sample's mean: means that differ from it only by
        # rounding must equal it.
        means: np.ndarray = np.mean(values, axis=axis).round(_DIGITS)
        return means

    bootstrap = stats.bootstrap(
        (np.array(differences) / size,),
        mean,
        confidence_level=level,
        n_resamples=BOOTSTRAP_RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(SEED),
    )
    low, high = bootstrap.confidence_interval
    if (1 - level) / 2 * BOOTSTRAP_RESAMPLES < 1:  # no resample lies outside of such an interval
        low, high = bootstrap.bootstrap_distribution.min(), bootstrap.bootstrap_distribution.max()
    return Interval(float(low) * size, float(high) * size, level)


def _sums(values: Sequence[float]) -> np.ndarray:
    """All 2ⁿ sums of the values, one for each choice of signs."""
    import numpy as np

    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums

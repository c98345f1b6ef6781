"""Tests and intervals without the assumption of a normal distribution: exact sign flips, and the bootstrap.

Both need more seeds than the t test. Below six pairs no sign-flip p-value is under 0.05: two of the 2ⁿ choices of signs
are always as extreme as the differences themselves. Below ten pairs the bootstrap's interval is too short: at three
pairs an interval that promises 95% covers 73%.
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
"""With more pairs the exact test takes gigabytes, and the t test needs no second opinion."""
RESAMPLES = 9_999
SEED = 0
_DIGITS = -round(math.log10(ROUNDING))


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """The two-sided p-value of a mean difference of 0, if each difference is as likely as its opposite.

    It is exact: the share of all 2ⁿ choices of signs whose sum is at least as far from 0 as that of the differences.
    The sums of each half of the pairs are combined by sorting, so that 2^(n/2) sums are enough. None below
    SIGN_FLIP_PAIRS and above MOST_FLIPPED.
    """
    import numpy as np

    n = len(differences)
    if not SIGN_FLIP_PAIRS <= n <= MOST_FLIPPED:
        return None
    # Sums that are equal but for rounding count as equal.
    observed = abs(math.fsum(differences)) - ROUNDING * math.fsum(map(abs, differences))
    if observed <= 0:
        return 1.0
    first, second = _sums(differences[: n // 2]), np.sort(_sums(differences[n // 2 :]))
    as_extreme = int(np.sum(len(second) - np.searchsorted(second, observed - first, side="left")))
    return as_extreme / 2.0 ** (n - 1)


def bootstrap_interval(differences: Sequence[float], level: float) -> Interval | None:
    """The bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), from a fixed seed.

    None below BOOTSTRAP_PAIRS. If all differences are the same but for rounding, it is a single point.
    """
    if len(differences) < BOOTSTRAP_PAIRS:
        return None
    size = max(map(abs, differences))
    if max(differences) - min(differences) <= ROUNDING * size:
        return Interval(mean_of(differences), mean_of(differences), level)
    import numpy as np
    from scipy import stats  # a second, which sweeps of fewer seeds shouldn't take

    def mean(values: np.ndarray, axis: int) -> np.ndarray:
        # The correction for bias counts how many resamples lie below the mean of the sample: means that differ from it
        # by rounding alone must equal it.
        means: np.ndarray = np.mean(values, axis=axis).round(_DIGITS)
        return means

    found = stats.bootstrap(
        (np.array(differences) / size,),
        mean,
        confidence_level=level,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(SEED),
    )
    low, high = found.confidence_interval
    if (1 - level) / 2 * RESAMPLES < 1:  # no resample lies outside of such an interval
        low, high = found.bootstrap_distribution.min(), found.bootstrap_distribution.max()
    return Interval(float(low) * size, float(high) * size, level)


def _sums(values: Sequence[float]) -> np.ndarray:
    """All 2ⁿ sums of the values, one for each choice of signs."""
    import numpy as np

    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums

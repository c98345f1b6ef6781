"""What differences say without a normal distribution: the exact sign-flip test, and the bootstrap interval.

Both need seeds: of fewer than six pairs no sign-flip p-value is below 0.05 (two of 2ⁿ signs are as extreme as the
differences themselves), and of fewer than ten the bootstrap's interval is too short: 73% for 95% at three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from lab.comparison.statistics.paired import ROUNDING, Interval, mean_of, scaled, unscaled

SIGN_FLIP_PAIRS = 6
BOOTSTRAP_PAIRS = 10
MOST_FLIPPED = 40
"""Beyond so many pairs the exact test takes gigabytes, and the t test needs no second opinion."""
RESAMPLES = 9_999
SEED = 0


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of a mean difference of 0, where each difference is as likely as its opposite.

    Exact: the share of all 2ⁿ choices of signs whose sum is as far from 0 as that of the differences. Sums of the two
    halves are sorted, so that 2^(n/2) of them are enough. None below SIGN_FLIP_PAIRS and beyond MOST_FLIPPED.
    """
    import numpy as np

    n = len(differences)
    if not SIGN_FLIP_PAIRS <= n <= MOST_FLIPPED:
        return None
    differences, _ = scaled(differences)
    # What is equal but for rounding counts as equal.
    seen = abs(math.fsum(differences)) - ROUNDING * math.fsum(map(abs, differences))
    if seen <= 0:
        return 1.0
    halves = [_sums(differences[: n // 2]), np.sort(_sums(differences[n // 2 :]))]
    as_far = int(np.sum(len(halves[1]) - np.searchsorted(halves[1], seen - halves[0], side="left")))
    return as_far / 2.0 ** (n - 1)


def bootstrap_interval(differences: Sequence[float], level: float) -> Interval | None:
    """The bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), from a fixed seed.

    That of scipy.stats.bootstrap with the same generator, without the second that importing scipy.stats takes. None
    below BOOTSTRAP_PAIRS; a point where all differences are the same but for rounding.
    """
    n = len(differences)
    if n < BOOTSTRAP_PAIRS:
        return None
    small, power = scaled(differences)
    tie = ROUNDING * max(map(abs, small))  # what is equal but for rounding
    if max(small) - min(small) <= tie:
        return Interval(mean_of(differences), mean_of(differences), level)
    import numpy as np
    from scipy.special import ndtr, ndtri

    values = np.asarray(small)
    mean = values.mean()
    off = _shares(n) @ values - mean
    # Within a tie lies the resample that is the sample, in another order.
    bias = float(ndtri((np.count_nonzero(off < -tie) + np.count_nonzero(off <= tie)) / (2 * RESAMPLES)))
    without = mean - (values.sum() - values) / (n - 1)  # the jackknife's means about their own
    spread = 6 * float((without**2).sum()) ** 1.5
    acceleration = float((without**3).sum()) / spread if spread > 0 else 0.0
    places = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        shift = bias + float(ndtri(share))
        slowed = 1 - acceleration * shift
        # Beyond all resamples where the level is so high that the correction has no answer.
        moved = shift / slowed if math.isfinite(shift) and slowed > 0 else math.copysign(math.inf, shift)
        places.append(float(ndtr(bias + moved)) * (RESAMPLES - 1))
    below = [min(int(place), RESAMPLES - 2) for place in places]
    ordered = np.partition(off, sorted({*below, *(place + 1 for place in below)}))
    low, high = (
        float(mean + ordered[at] + (place - at) * (ordered[at + 1] - ordered[at]))
        for place, at in zip(places, below, strict=True)
    )
    return Interval(unscaled(low, power), unscaled(high, power), level)


@cache
def _shares(n: int) -> Any:
    """The share that each of n values has in each resample: [RESAMPLES, n]."""
    import numpy as np

    drawn = np.random.default_rng(SEED).integers(0, n, (RESAMPLES, n)) + n * np.arange(RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n) / n


def _sums(values: Sequence[float]) -> Any:
    """All 2ⁿ sums of the values with every choice of signs."""
    import numpy as np

    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums

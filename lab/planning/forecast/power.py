"""Statistical power: the seeds that it takes to detect an effect or to show equivalence, and the detectable effect.

An arm is compared with the baseline by a two-sided paired t test over seeds. Holm's procedure tests the most
significant arm at α / (arms - 1), and plans use that level. The power of the t test is exact, from the noncentral t
distribution. The power of showing equivalence (two one-sided tests, Schuirmann 1987) is an integral over the observed
standard deviation.

This module imports nothing heavy, because `lab compare` uses it for every arm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 100_000


def power(effect: float, sd: float, seeds: int, comparisons: int = 1, alpha: float = ALPHA) -> float:
    """Probability that the two-sided paired t test at α / comparisons detects a true mean difference.

    P(|T| > t) for T noncentral t with seeds - 1 degrees of freedom and noncentrality effect / sd · √seeds.
    """
    from scipy.special import chdtr, nctdtr, stdtrit

    degrees = seeds - 1
    critical = -float(stdtrit(degrees, alpha / comparisons / 2))
    shift = abs(effect) / sd * math.sqrt(seeds)
    below = float(nctdtr(degrees, shift, critical))
    if not math.isfinite(below):
        # The series fails at a noncentrality of 10⁵ and more, where the normal part of T is negligible.
        return float(chdtr(degrees, degrees * (shift / critical) ** 2))
    beyond = float(nctdtr(degrees, shift, -critical))  # significant with the wrong sign
    return 1.0 - below + (beyond if math.isfinite(beyond) else 0.0)


def smallest_effect(sd: float, seeds: int, comparisons: int = 1) -> float | None:
    """The smallest true difference that is detected with probability POWER, in the unit of `sd`; None for one seed."""
    if seeds < 2:
        return None
    if sd == 0:
        return 0.0
    low, high = 0.0, 1.0
    while power(high, 1.0, seeds, comparisons) < POWER:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, 1.0, seeds, comparisons) < POWER else (low, middle)
    return high * sd


def seeds_needed(effect: float, sd: float, comparisons: int = 1, alpha: float = ALPHA) -> int:
    """The fewest seeds, at least two and at most MOST_SEEDS, that detect a true difference with probability POWER."""
    if sd == 0:
        return 2
    return _fewest(lambda seeds: power(effect, sd, seeds, comparisons, alpha) >= POWER)


def equivalence_power(
    margin: float, sd: float, seeds: int, comparisons: int = 1, alpha: float = ALPHA, effect: float = 0.0
) -> float:
    """Probability that a true mean difference of `effect` is shown to be within ±margin at α / comparisons.

    P(mean - t · s/√n > -margin and mean + t · s/√n < margin), where the observed standard deviation s is distributed as
    sd · √(χ²/degrees). It is computed as the mean over s of the normal probability between the two bounds, which is
    zero if the bounds cross.
    """
    import numpy as np
    from scipy.special import gammaln, ndtr, stdtrit

    degrees = seeds - 1
    critical = -float(stdtrit(degrees, alpha / comparisons))
    scale = math.sqrt(seeds) / sd
    # Observed standard deviations in units of sd. Above `widest` the bounds cross. More than 8 standard errors from 1
    # (`reach`), the density is negligible.
    widest, reach = margin * scale / critical, 8 / math.sqrt(2 * degrees)
    low, high = max(0.0, 1 - reach), min(widest, 1 + reach)
    if high <= low:
        return 0.0
    nodes, weights = _nodes()
    spread = low + (high - low) * (nodes + 1) / 2
    density = np.exp(
        math.log(2)
        + degrees / 2 * math.log(degrees / 2)
        - float(gammaln(degrees / 2))
        + (degrees - 1) * np.log(spread)
        - degrees * spread**2 / 2
    )
    upper = (margin - effect) * scale - critical * spread
    lower = (-margin - effect) * scale + critical * spread
    return float((high - low) / 2 * np.sum(weights * density * np.maximum(0.0, ndtr(upper) - ndtr(lower))))


@cache
def _nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The nodes and weights of the Gauss-Legendre rule on [-1, 1]."""
    from numpy.polynomial.legendre import leggauss

    nodes, weights = leggauss(80)
    return nodes, weights


def seeds_to_equate(
    margin: float, sd: float, comparisons: int = 1, alpha: float = ALPHA, effect: float = 0.0
) -> int | None:
    """The fewest seeds that show with probability POWER that a true difference of `effect` is within ±margin.

    Returns:
        At least two and at most MOST_SEEDS; None if the difference isn't within the margin.
    """
    if abs(effect) >= margin:
        return None
    if sd == 0:
        return 2
    return _fewest(lambda seeds: equivalence_power(margin, sd, seeds, comparisons, alpha, effect) >= POWER)


def _fewest(enough: Callable[[int], bool]) -> int:
    """The fewest seeds, from 2 to MOST_SEEDS, for which a monotone condition holds."""
    high = 2
    while not enough(high):
        high *= 2
        if high >= MOST_SEEDS:
            return MOST_SEEDS
    low = max(1, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high

"""Equivalence tests: whether a difference is shown to lie within a margin that the sweep declares negligible.

Two one-sided t tests (Schuirmann 1987): one shows that the difference is above -margin, the other that it is below
+margin. Both must succeed, so the larger p-value counts. The tests succeed at α exactly if the 1 - 2α interval lies
within ±margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lab.comparison.statistics.paired import Interval, PairedDifference, t_interval


@dataclass(frozen=True)
class Equivalence:
    """The evidence that a difference lies within ±margin.

    Attributes:
        margin: in the metric's unit.
        p: the p-value of the two one-sided tests; None with fewer than two pairs.
        p_holm: `p` corrected for the number of arms; None if `p` is.
        interval: the 1 - 2α interval, which corresponds to the tests at α; None with fewer than two pairs.
    """

    margin: float
    p: float | None
    p_holm: float | None
    interval: Interval | None


def equivalence_p(difference: PairedDifference, margin: float) -> float | None:
    """The p-value of the two one-sided paired t tests against ±margin; None with fewer than two pairs.

    If the difference is the same on every seed and within the margin, it is 1/2ⁿ, the p-value of the sign test.
    """
    from scipy.special import stdtr

    if difference.mean is None or difference.sd is None:
        return None
    if difference.sd == 0:
        return 0.5**difference.n if abs(difference.mean) < margin else 1.0
    t = (abs(difference.mean) - margin) / difference.sd * math.sqrt(difference.n)
    return float(stdtr(difference.n - 1, t))


def equivalence_interval(difference: PairedDifference, alpha: float) -> Interval | None:
    """The 1 - 2α interval, which corresponds to the tests at α; None with fewer than two pairs, or if α ≥ 1/2."""
    if difference.mean is None or difference.sd is None or alpha >= 0.5:
        return None
    return t_interval(difference.mean, difference.sd, difference.n, 1 - 2 * alpha)

"""Equivalence: whether a difference is shown to be negligible, within a margin that the sweep names.

Two one-sided t tests (Schuirmann 1987): one that the difference is above -margin, one that it is below +margin. Both
must hold, so the larger of the two p-values counts. At α this is the same as the 1 - 2α interval lying within ±margin.
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
        p: of the two one-sided tests; None below two pairs.
        p_holm: corrected for the number of arms; None if `p` is.
        interval: the interval of level 1 - 2α that belongs to the tests at α; None below two pairs.
    """

    margin: float
    p: float | None
    p_holm: float | None
    interval: Interval | None


def equivalence_p(difference: PairedDifference, margin: float) -> float | None:
    """The p-value of the two one-sided paired t tests against ±margin; None below two pairs.

    If the difference is within the margin and the same on every seed, it is 1/2ⁿ, that of the signs.
    """
    from scipy.special import stdtr

    if difference.mean is None or difference.sd is None:
        return None
    if difference.sd == 0:
        return 0.5**difference.n if abs(difference.mean) < margin else 1.0
    t = (abs(difference.mean) - margin) / difference.sd * math.sqrt(difference.n)
    return float(stdtr(difference.n - 1, t))


def equivalence_interval(difference: PairedDifference, alpha: float) -> Interval | None:
    """The 1 - 2α interval that belongs to the tests at α; None below two pairs, and from α = 1/2 on."""
    if difference.mean is None or difference.sd is None or alpha >= 0.5:
        return None
    return t_interval(difference.mean, difference.sd, difference.n, 1 - 2 * alpha)

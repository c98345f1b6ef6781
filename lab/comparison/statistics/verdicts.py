"""What is said of an arm: better, worse, different, equivalent, or can't tell and how many seeds that would take.

The arms of one metric are judged together: their p-values are corrected by Holm's procedure, those of differing and
those of being equivalent each for themselves, so that α is the chance that any arm is wrongly called better or worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lab.comparison.metrics import Direction
from lab.comparison.statistics.equivalence import Equivalence, equivalence_interval, equivalence_p
from lab.comparison.statistics.paired import Interval, PairedDifference, holm
from lab.comparison.statistics.resampling import bootstrap_interval, sign_flip_p
from lab.planning.forecast.seeds import seeds_needed, seeds_to_equate

Verdict = Literal["better", "worse", "different", "equivalent", "can't tell"]


@dataclass(frozen=True)
class Judgement:
    """What is known of one arm's difference from the baseline in one metric.

    Attributes:
        verdict: `equivalent` wherever that is shown, also of a certain difference that is of no consequence;
            `different` for a metric of which nobody knows the better direction.
        p: of the two-sided paired t test; None below two pairs.
        p_holm: corrected for the number of arms.
        sign_flip_p: of the exact sign-flip test, not corrected; None below six pairs.
        bootstrap: BCa interval of the mean difference, not corrected; None below ten pairs.
        equivalence: None without a margin.
        seeds_needed: with which a verdict would be reached with the power of a plan if the true difference and its
            spread are what was seen; None unless it can't tell, and where nothing was seen to go by.
    """

    verdict: Verdict
    p: float | None
    p_holm: float | None
    sign_flip_p: float | None
    bootstrap: Interval | None
    equivalence: Equivalence | None
    seeds_needed: int | None


def judge(
    differences: Mapping[str, PairedDifference],
    better: Direction | None,
    *,
    level: float = 0.95,
    margin: float | None = None,
) -> dict[str, Judgement]:
    """Judge all arms of one metric (arm → its difference from the baseline).

    Args:
        better: the direction in which the metric improves; None where that isn't known.
        level: 1 - α.
        margin: the largest difference that is of no consequence; None to show nothing equivalent.
    """
    alpha = 1 - level
    corrected = holm({arm: difference.p for arm, difference in differences.items()})
    equal: dict[str, Equivalence] = {}
    if margin is not None:
        p_equal = {arm: equivalence_p(difference, margin) for arm, difference in differences.items()}
        p_holm = holm(p_equal)
        for arm, difference in differences.items():
            equal[arm] = Equivalence(margin, p_equal[arm], p_holm[arm], equivalence_interval(difference, alpha))
    judged = {}
    for arm, difference in differences.items():
        verdict = _verdict(difference, corrected[arm], equal.get(arm), better, alpha)
        judged[arm] = Judgement(
            verdict=verdict,
            p=difference.p,
            p_holm=corrected[arm],
            sign_flip_p=sign_flip_p(difference.values),
            bootstrap=bootstrap_interval(difference.values, level),
            equivalence=equal.get(arm),
            seeds_needed=_seeds(difference, len(differences), alpha, margin) if verdict == "can't tell" else None,
        )
    return judged


def _verdict(
    difference: PairedDifference,
    p_holm: float | None,
    equivalence: Equivalence | None,
    better: Direction | None,
    alpha: float,
) -> Verdict:
    if equivalence is not None and equivalence.p_holm is not None and equivalence.p_holm < alpha:
        return "equivalent"
    if p_holm is None or p_holm >= alpha or difference.mean is None:
        return "can't tell"
    if better is None:
        return "different"
    return "better" if (difference.mean < 0) == (better == "lower") else "worse"


def _seeds(difference: PairedDifference, comparisons: int, alpha: float, margin: float | None) -> int | None:
    """The fewer of those that find the difference and those that show it to be within the margin."""
    mean, sd = difference.mean, difference.sd
    if mean is None or sd is None:
        return None
    if sd == 0:  # so many that the sign-flip test tells
        signs = math.floor(math.log2(comparisons / alpha)) + 1
        return 1 + signs if mean else signs if margin is not None else None
    equating = None if margin is None else seeds_to_equate(margin, sd, comparisons, alpha, mean)
    finding = seeds_needed(mean, sd, comparisons, alpha) if mean else None
    return min((seeds for seeds in (finding, equating) if seeds is not None), default=None)

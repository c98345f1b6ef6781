"""The verdict on an arm: better, worse, different, equivalent, or can't tell and how many seeds it needs.

All arms are judged together, one metric at a time. Holm's procedure corrects their p-values, those of the difference
and those of equivalence separately, so that α bounds the probability that any arm is wrongly called better or worse.
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
from lab.planning.forecast.power import seeds_needed, seeds_to_equate

Verdict = Literal["better", "worse", "different", "equivalent", "can't tell"]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The evidence about one arm's difference from the baseline in one metric.

    Attributes:
        verdict: `equivalent` whenever equivalence is shown, even if the difference is significant: it is negligible.
            `different` is a significant difference in a metric whose better direction isn't known. None for the
            baseline.
        p: the p-value of the two-sided paired t test; None with fewer than two pairs.
        p_holm: `p` corrected for the number of arms.
        sign_flip_p: the p-value of the exact sign-flip test, not corrected; None with fewer than six pairs.
        bootstrap: the BCa interval of the mean difference, not corrected; None with fewer than ten pairs.
        equivalence: None without a margin.
        seeds_needed: the total number of seeds that would give a verdict with the power that plans use, if the true
            difference and its spread equal the observed ones. None unless the verdict is `can't tell`, and with fewer
            than two pairs.
    """

    verdict: Verdict | None = None
    p: float | None = None
    p_holm: float | None = None
    sign_flip_p: float | None = None
    bootstrap: Interval | None = None
    equivalence: Equivalence | None = None
    seeds_needed: int | None = None


def judge(
    differences: Mapping[str, PairedDifference],
    better: Direction | None,
    *,
    level: float = 0.95,
    margin: float | None = None,
) -> dict[str, Judgement]:
    """Judge all arms of one metric (arm → its difference from the baseline).

    Args:
        better: the direction in which the metric improves; None if it isn't known.
        level: 1 - α.
        margin: the largest negligible difference; None for no equivalence test.
    """
    alpha = 1 - level
    p_holm = holm({arm: difference.p for arm, difference in differences.items()})
    equivalences = {} if margin is None else _equivalences(differences, margin, alpha)
    judgements = {}
    for arm, difference in differences.items():
        equivalence = equivalences.get(arm)
        verdict = _verdict(difference, p_holm[arm], equivalence, better, alpha)
        unclear = verdict == "can't tell"
        judgements[arm] = Judgement(
            verdict=verdict,
            p=difference.p,
            p_holm=p_holm[arm],
            sign_flip_p=sign_flip_p(difference.values),
            bootstrap=bootstrap_interval(difference.values, level),
            equivalence=equivalence,
            seeds_needed=_seeds_needed(difference, len(differences), alpha, margin) if unclear else None,
        )
    return judgements


def _equivalences(differences: Mapping[str, PairedDifference], margin: float, alpha: float) -> dict[str, Equivalence]:
    p = {arm: equivalence_p(difference, margin) for arm, difference in differences.items()}
    p_holm = holm(p)
    return {
        arm: Equivalence(margin, p[arm], p_holm[arm], equivalence_interval(difference, alpha))
        for arm, difference in differences.items()
    }


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


def _seeds_needed(difference: PairedDifference, comparisons: int, alpha: float, margin: float | None) -> int | None:
    """The smaller of two numbers of seeds: to show the difference, and to show that it is within the margin."""
    mean, sd = difference.mean, difference.sd
    if mean is None or sd is None:
        return None
    if sd == 0:  # the number that the sign-flip test needs
        signs = math.floor(math.log2(comparisons / alpha)) + 1
        return 1 + signs if mean else signs if margin is not None else None
    for_equivalence = None if margin is None else seeds_to_equate(margin, sd, comparisons, alpha, mean)
    for_difference = seeds_needed(mean, sd, comparisons, alpha) if mean else None
    return min((seeds for seeds in (for_difference, for_equivalence) if seeds is not None), default=None)

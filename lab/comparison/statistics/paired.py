"""Differences from a baseline, paired by seed, with the paired t interval and Holm's correction.

Runs of two arms with the same seed share their data order and the initial values of every weight that both have, so
their difference is less noisy than either value. At three seeds the paired t interval covers the truth as often as it
promises; an interval from the normal distribution covers 81%, a percentile bootstrap 76%.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

K = TypeVar("K", bound=Hashable)
Sign = Literal["lower", "higher", "unclear"]

ROUNDING = 1e-12
"""Relative to the values that a difference was computed from: a smaller difference is rounding, and counts as 0."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of its quantity."""

    low: float
    high: float
    level: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Sample:
    """One arm's values of one metric over its seeds.

    Attributes:
        n: the number of finite values.
        mean: of the finite values; None if there is none.
        sd: sample standard deviation (n - 1); None below two values.
        not_finite: seeds whose value is NaN or infinite. No mean includes them, so they must be shown.
    """

    n: int
    mean: float | None
    sd: float | None
    not_finite: tuple[int, ...] = ()


@dataclass(frozen=True)
class PairedDifference:
    """An arm less its baseline, over the seeds that both have.

    Attributes:
        seeds: the seeds of the pairs, ascending.
        values: the differences, in the order of the seeds. Values that differ by rounding alone are made equal.
        mean: the mean difference, arm - baseline; None without a pair.
        sd: the sample standard deviation of the differences; None below two pairs.
        interval: the paired t interval of the mean difference. None below two pairs, and if all differences are the
            same and not 0: then nothing is known about their spread.
        p: of the two-sided paired t test, not corrected for the number of arms; None below two pairs.
        correlation: Pearson's, between the two arms over the pairs: how much pairing helped. None below three pairs
            (two points always lie on a line), and if an arm has the same value for every seed.
        unpaired: seeds that only one of the two has.
        not_finite: seeds that both have, with a value that is NaN or infinite.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float | None
    sd: float | None
    interval: Interval | None
    p: float | None
    correlation: float | None
    unpaired: tuple[int, ...] = ()
    not_finite: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        """Pairs."""
        return len(self.seeds)

    @property
    def sign(self) -> Sign:
        """The sign of the difference if its own interval excludes zero. Not corrected for the number of arms; an
        arm's verdict is in verdicts.py."""
        if self.interval is None or not self.interval.excludes_zero:
            return "unclear"
        return "lower" if self.interval.high < 0 else "higher"

    @property
    def identical(self) -> bool:
        """Whether arm and baseline have the same value on every seed, of two seeds or more."""
        return self.n > 1 and self.mean == 0 and self.sd == 0

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know besides the numbers, in a few words each."""
        remarks = []
        if self.n == 0:
            remarks.append("no seed in common with the baseline")
        elif self.n == 1:
            remarks.append(f"one pair (seed {self.seeds[0]}): no interval")
        elif self.identical:
            remarks.append("identical on every seed")
        elif self.sd == 0:
            remarks.append("the same difference on every seed")
        if self.unpaired and self.n:
            remarks.append(f"{self.n} of {self.n + len(self.unpaired) + len(self.not_finite)} seeds paired")
        if self.not_finite:
            remarks.append(f"not finite: {seed_list(self.not_finite)}")
        return tuple(remarks)


def sample(values: Mapping[int, float]) -> Sample:
    """Mean and spread of a metric over seeds (seed → value)."""
    finite = [values[seed] for seed in sorted(values) if math.isfinite(values[seed])]
    return Sample(
        n=len(finite),
        mean=mean_of(finite) if finite else None,
        sd=_sd(finite) if len(finite) > 1 else None,
        not_finite=tuple(seed for seed in sorted(values) if not math.isfinite(values[seed])),
    )


def paired_difference(
    arm: Mapping[int, float], baseline: Mapping[int, float], *, level: float = 0.95
) -> PairedDifference:
    """The difference arm - baseline over shared seeds (seed → value), with its paired t interval.

    The interval is mean ± t(1 - (1 - level)/2, n - 1) · sd / √n (Student 1908).

    Raises:
        ValueError: the level isn't between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, such as 0.95, got {level!r}")
    shared = sorted(set(arm) & set(baseline))
    seeds = tuple(seed for seed in shared if math.isfinite(arm[seed]) and math.isfinite(baseline[seed]))
    pairs = [(arm[seed], baseline[seed]) for seed in seeds]
    differences = merge_rounding([a - b for a, b in pairs], [max(abs(a), abs(b)) for a, b in pairs])
    mean = mean_of(differences) if differences else None
    sd = _sd(differences) if len(differences) > 1 else None
    return PairedDifference(
        seeds=seeds,
        values=differences,
        mean=mean,
        sd=sd,
        interval=None if mean is None or sd is None or mean != sd == 0 else t_interval(mean, sd, len(seeds), level),
        p=None if mean is None or sd is None else t_test_p(mean, sd, len(seeds)),
        correlation=_correlation([a for a, _ in pairs], [b for _, b in pairs]),
        unpaired=tuple(sorted(set(arm) ^ set(baseline))),
        not_finite=tuple(seed for seed in shared if seed not in seeds),
    )


def t_interval(mean: float, sd: float, n: int, level: float) -> Interval:
    """The t interval of a mean of `n` values whose sample standard deviation is `sd`; a single point if `sd` is 0."""
    from scipy.special import stdtrit  # half a second, which help texts and completion shouldn't take

    if sd == 0:
        return Interval(mean, mean, level)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return Interval(mean - half, mean + half, level)


def t_test_p(mean: float, sd: float, n: int) -> float:
    """The two-sided p-value of the hypothesis that the mean of `n` values is 0.

    If `sd` is 0, it is that of the exact sign-flip test, 2/2ⁿ, or 1 for a mean of 0. A metric that moves in steps, as
    an accuracy does, now and then moves by the same step on two seeds.
    """
    from scipy.special import stdtr

    if sd == 0:
        return 1.0 if mean == 0 else 2.0 ** (1 - n)
    return 2 * float(stdtr(n - 1, -abs(mean) / sd * math.sqrt(n)))


def holm(p_values: Mapping[K, float | None]) -> dict[K, float | None]:
    """P-values corrected for their number by Holm's step-down procedure (1979); None stays None.

    A comparison that has no p-value yet counts too, so that a verdict doesn't change when its p-value arrives.
    """
    corrected: dict[K, float | None] = dict.fromkeys(p_values)
    known = {key: p for key, p in p_values.items() if p is not None}
    largest = 0.0
    for rank, key in enumerate(sorted(known, key=known.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * known[key]))
        corrected[key] = largest
    return corrected


def merge_rounding(values: Sequence[float], sizes: Sequence[float]) -> tuple[float, ...]:
    """The values; if they differ by rounding alone, their mean in place of each, or 0 if that is rounding too.

    Accuracies in steps of 0.05 that gain a step on every seed have gained the same.

    Args:
        sizes: of the numbers that each value was computed from: the rounding of 3.2 - 3.1 is that of 3.2, not of 0.1.
            Their median counts, so that a single broken value doesn't turn all others into rounding.
    """
    if len(values) < 2:
        return tuple(values)
    rounding = ROUNDING * sorted(sizes)[(len(sizes) - 1) // 2]
    if max(values) - min(values) > rounding:
        return tuple(values)
    mean = mean_of(values)
    return (0.0 if abs(mean) <= rounding else mean,) * len(values)


def mean_of(values: Sequence[float]) -> float:
    """The mean of finite values; that of equal values is exactly their value."""
    return values[0] if max(values) == min(values) else math.fsum(values) / len(values)


def seed_list(seeds: Sequence[int]) -> str:
    """`seed 3`, `seeds 3, 5`."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


def _sd(values: Sequence[float]) -> float:
    if max(values) == min(values):
        return 0.0
    mean = mean_of(values)
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)


def _correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    if len(x) < 3 or _is_constant(x) or _is_constant(y):
        return None
    return max(-1.0, min(1.0, statistics.correlation(x, y)))


def _is_constant(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= ROUNDING * max(map(abs, values))

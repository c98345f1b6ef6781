"""How sure we are: differences from a baseline, paired by seed, with the paired t interval and Holm's correction.

Runs of two arms with the same seed share their data order and the initial values of all that they have in common, so
their difference is less noisy than either. At three seeds the paired t interval covers what it says; an interval from
the normal distribution covers about 81%, a percentile bootstrap 76%.

Beside it: equivalence.py (within a margin), resampling.py (sign flips, bootstrap), verdicts.py (what is said of an
arm), factorial.py (effects of a grid's axes), noise.py (the baseline's own), scaling.py (loss by size and tokens).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

K = TypeVar("K", bound=Hashable)
Sign = Literal["lower", "higher", "unclear"]

ROUNDING = 1e-12
"""Of the size of what a value was worked out from: differences below it are rounding, and count as none."""
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of what it is about."""

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
        n: finite values.
        mean: of the finite values; None if there is none.
        sd: sample standard deviation (n - 1); None below two values.
        not_finite: seeds whose value is NaN or infinite. They are in no mean, and must be shown.
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
        values: the differences, in the order of the seeds; all the same where they are but for rounding.
        mean: mean difference, arm - baseline; None without a pair.
        sd: sample standard deviation of the differences; None below two pairs.
        interval: the paired t interval of the mean difference; None below two pairs, and where all are the same and
            not 0: of their spread nothing is known then.
        p: of the two-sided paired t test, not corrected for the number of arms; None below two pairs.
        correlation: Pearson's, between the two arms over the pairs: how much pairing helped. None below three pairs
            (two points always lie on a line) and where an arm has the same value for every seed, but for rounding.
        unpaired: seeds that only one of the two has.
        not_finite: seeds that both have, where a value or the difference is NaN or infinite.
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
    def verdict(self) -> Sign:
        """The sign of the difference where its own interval excludes zero, else that it is unclear. Not corrected for
        the number of arms: what is said of an arm is in verdicts.py."""
        if self.interval is None or not self.interval.excludes_zero:
            return "unclear"
        return "lower" if self.interval.high < 0 else "higher"

    @property
    def identical(self) -> bool:
        """Whether the two are the same, but for rounding, on every one of two seeds or more."""
        return self.n > 1 and self.mean == 0 and self.sd == 0

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know besides the numbers: too few pairs, seeds without a partner, values not finite,
        differences without any spread."""
        said = []
        if self.n == 0:
            said.append("no seed in common with the baseline")
        elif self.n == 1:
            said.append(f"one pair (seed {self.seeds[0]}): no interval")
        elif self.identical:
            said.append("identical on every seed")
        elif self.sd == 0:
            said.append("the same difference on every seed")
        if self.unpaired and self.n:
            said.append(f"{self.n} of {self.n + len(self.unpaired) + len(self.not_finite)} seeds paired")
        if self.not_finite:
            said.append(f"not finite: {_seeds(self.not_finite)}")
        return tuple(said)


def sample(values: Mapping[int, float]) -> Sample:
    """Mean and spread of a metric over seeds (seed → value), values that aren't finite counted apart."""
    known = [float(values[seed]) for seed in sorted(values) if finite(values[seed])]
    return Sample(
        n=len(known),
        mean=mean_of(known) if known else None,
        sd=_sd(known) if len(known) > 1 else None,
        not_finite=tuple(seed for seed in sorted(values) if not finite(values[seed])),
    )


def paired_difference(
    arm: Mapping[int, float], baseline: Mapping[int, float], *, level: float = 0.95
) -> PairedDifference:
    """The difference arm - baseline over shared seeds (seed → value), with its paired t interval.

    The interval is mean ± t(1 - (1 - level)/2, n - 1) · sd / √n (Student 1908). Differences that vary by rounding alone
    have no spread: accuracies in steps of 0.05 that gain a step on every seed gain the same.

    Raises:
        ValueError: the level isn't between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, such as 0.95, got {level!r}")
    shared = sorted(set(arm) & set(baseline))
    both = [seed for seed in shared if finite(arm[seed]) and finite(baseline[seed])]
    seeds = tuple(seed for seed in both if finite(float(arm[seed]) - float(baseline[seed])))
    pairs = [(float(arm[seed]), float(baseline[seed])) for seed in seeds]
    differences = steadied([a - b for a, b in pairs], [max(abs(a), abs(b)) for a, b in pairs])
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
    """The t interval of a mean of `n` values whose sample standard deviation is `sd`; a point where `sd` is 0."""
    from scipy.special import stdtrit  # half a second, which help texts and completion needn't pay

    if sd == 0:
        return Interval(mean, mean, level)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return Interval(mean - half, mean + half, level)


def t_test_p(mean: float, sd: float, n: int) -> float:
    """The two-sided p-value of a mean of `n` values being 0.

    Without any spread it is 1 at 0 and elsewhere that of the exact sign-flip test, 2/2ⁿ: a metric that moves in steps
    moves by one step on two seeds now and then.
    """
    from scipy.special import stdtr

    if sd == 0:
        return 1.0 if mean == 0 else 2.0 ** (1 - n)
    return 2 * float(stdtr(n - 1, -abs(mean) / sd * math.sqrt(n)))


def holm(p_values: Mapping[K, float | None]) -> dict[K, float | None]:
    """P-values corrected for their number by Holm's step-down procedure (1979); None where there is none.

    What has no p-value (yet) counts as one of them, so that a finding doesn't go when it comes.
    """
    corrected: dict[K, float | None] = dict.fromkeys(p_values)
    known = {key: p for key, p in p_values.items() if p is not None}
    largest = 0.0
    for place, key in enumerate(sorted(known, key=known.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * known[key]))
        corrected[key] = largest
    return corrected


def steadied(values: Sequence[float], sizes: Sequence[float]) -> tuple[float, ...]:
    """Values as they are; where they are the same but for rounding, that one: 0 where it may be 0.

    Args:
        sizes: of what each was worked out from. The rounding of 3.2 - 3.1 is that of 3.2, and not of 0.1. The median
            counts: beside one value of 1e200, which is broken, 0.1 and 0.2 are no rounding.
    """
    if len(values) < 2:
        return tuple(values)
    rounding = ROUNDING * sorted(sizes)[(len(sizes) - 1) // 2]
    if max(values) - min(values) > rounding:
        return tuple(values)
    mean = mean_of(values)
    return (0.0 if abs(mean) <= rounding else mean,) * len(values)


def finite(value: float) -> bool:
    """Whether it is a number that a float holds: JSON has whole numbers beyond, which `math.isfinite` fails at."""
    return -_LARGEST <= value <= _LARGEST


def scaled(values: Sequence[float]) -> tuple[list[float], int]:
    """Values over a power of two that leaves the largest below 1, so that no square overflows; and the power. Exact."""
    power = math.frexp(max(map(abs, values), default=0.0))[1]
    return [math.ldexp(value, -power) for value in values], power


def unscaled(value: float, power: int) -> float:
    """A value times a power of two, infinite where no float holds it."""
    try:
        return math.ldexp(value, power)
    except OverflowError:
        return math.copysign(math.inf, value)


def mean_of(values: Sequence[float]) -> float:
    """The mean of finite values, of equal ones exactly theirs."""
    if max(values) == min(values):
        return values[0]
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        small, power = scaled(values)
        return unscaled(math.fsum(small) / len(small), power)


def _sd(values: Sequence[float]) -> float:
    if max(values) == min(values):
        return 0.0
    mean = mean_of(values)
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)


def _correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    if len(x) < 3:
        return None
    of_x, of_y = _deviations(x), _deviations(y)
    if of_x is None or of_y is None:
        return None
    covariance = math.fsum(a * b for a, b in zip(of_x, of_y, strict=True))
    return max(-1.0, min(1.0, covariance / (math.hypot(*of_x) * math.hypot(*of_y))))


def _deviations(values: Sequence[float]) -> list[float] | None:
    """From their mean, in some unit; None where they are rounding alone."""
    small, _ = scaled(values)
    if max(small) - min(small) <= ROUNDING * max(map(abs, small)):
        return None
    mean = mean_of(small)
    return [value - mean for value in small]


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"

"""The smallest effect that a number of seeds can detect, given the noise seen so far.

An arm is compared with the baseline by a paired t test over seeds, two-sided. Holm's procedure over all arms asks the
first of them for α / (arms - 1): that is what is planned for. Power is exact, from the noncentral t distribution; that
of showing an arm equivalent (two one-sided tests, Schuirmann 1987) by integrating over the spread that is observed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from lab.planning.history import Past
from lab.planning.plan import Plan

ALPHA = 0.05
POWER = 0.8
TARGET = 0.01
"""The effect whose price in seeds is always told, in the metric's unit (nats for a loss)."""
MOST_SEEDS = 100_000

Source = Literal["this sweep", "other runs", "unknown"]


@dataclass(frozen=True)
class Noise:
    """How much a difference from the baseline varies from seed to seed.

    Attributes:
        sd: standard deviation of the differences, pooled over arms; None where it is unknown.
        degrees: of freedom behind it: pairs less one, summed over arms.
        source: the finished runs of this plan; else other runs of the same experiment and tokens under the root.
    """

    sd: float | None = None
    degrees: int = 0
    source: Source = "unknown"


@dataclass(frozen=True)
class Detectable:
    """What a plan can find out.

    Attributes:
        metric: that decides.
        seeds: that each arm reports.
        comparisons: arms less the baseline.
        effect: smallest difference found with the power asked for; None where the noise is unknown or seeds are one.
        seeds_for_target: seeds that finding the target would take; None where the noise is unknown.
        equivalence: the sweep's margin; None where it has none.
        seeds_for_equivalence: seeds that show an arm without any true difference to be within the margin; None where
            there is no margin or the noise is unknown.
    """

    metric: str
    noise: Noise
    seeds: int
    comparisons: int
    effect: float | None
    seeds_for_target: int | None
    target: float = TARGET
    alpha: float = ALPHA
    power: float = POWER
    equivalence: float | None = None
    seeds_for_equivalence: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def detectable(plan: Plan, past: Iterable[Past]) -> Detectable:
    """What the plan's seeds can detect in its first metric, given the finished runs under the root."""
    seen = noise(plan, past)
    seeds = len({run.seed for run in plan.runs if run.role == "report"})
    comparisons = len(plan.arms) - 1
    sd, margin = seen.sd if comparisons > 0 else None, plan.equivalence
    return Detectable(
        metric=plan.metrics[0],
        noise=seen,
        seeds=seeds,
        comparisons=comparisons,
        effect=None if sd is None else smallest_effect(sd, seeds, comparisons),
        seeds_for_target=None if sd is None else seeds_needed(TARGET, sd, comparisons),
        equivalence=margin,
        seeds_for_equivalence=None if sd is None or margin is None else seeds_to_equate(margin, sd, comparisons),
    )


def noise(plan: Plan, past: Iterable[Past]) -> Noise:
    """The noise of the plan's first metric: of its own finished runs, else of others of its experiment and tokens."""
    metric = plan.metrics[0]
    usable = [run for run in past if run.role == "report" and math.isfinite(run.metrics.get(metric, math.nan))]
    planned = {run.identity for run in plan.runs}
    own = [run for run in usable if run.identity in planned and run.sweep == plan.sweep]
    sd, degrees = pooled(_differences(own, metric, plan.baseline))
    if sd is not None:
        return Noise(sd, degrees, "this sweep")
    alike = {(run.experiment.name, run.tokens) for run in plan.runs}
    sweeps: dict[str, list[Past]] = {}
    for run in usable:
        if (run.experiment, run.tokens) in alike:
            sweeps.setdefault(run.sweep, []).append(run)
    # A sweep's baseline is the one in force when its newest run was made.
    groups = [_differences(runs, metric, runs[-1].baseline) for runs in sweeps.values()]
    sd, degrees = pooled([differences for group in groups for differences in group])
    return Noise() if sd is None else Noise(sd, degrees, "other runs")


def pooled(samples: Iterable[Sequence[float]]) -> tuple[float | None, int]:
    """Standard deviation within samples, each about its own mean, and its degrees of freedom; None without any."""
    squares, degrees = 0.0, 0
    for values in samples:
        mean = math.fsum(values) / max(1, len(values))
        squares += math.fsum((value - mean) ** 2 for value in values)
        degrees += max(0, len(values) - 1)
    return (math.sqrt(squares / degrees), degrees) if degrees else (None, 0)


def power(effect: float, sd: float, seeds: int, comparisons: int = 1, alpha: float = ALPHA) -> float:
    """Probability that a true mean difference is found by the two-sided paired t test at α / comparisons.

    P(|T| > t) for T noncentral t with seeds - 1 degrees of freedom and noncentrality effect / sd · √seeds.
    """
    from scipy.special import chdtr, nctdtr, stdtrit

    degrees = seeds - 1
    critical = -float(stdtrit(degrees, alpha / comparisons / 2))
    shift = abs(effect) / sd * math.sqrt(seeds)
    below = float(nctdtr(degrees, shift, critical))
    if not math.isfinite(below):
        # The series fails at a noncentrality of 10⁵ and more, where the normal part of T is nothing beside it.
        return float(chdtr(degrees, degrees * (shift / critical) ** 2))
    beyond = float(nctdtr(degrees, shift, -critical))  # significant with the wrong sign
    return 1.0 - below + (beyond if math.isfinite(beyond) else 0.0)


def smallest_effect(sd: float, seeds: int, comparisons: int = 1) -> float | None:
    """The smallest true difference that is found with probability POWER, in the unit of `sd`; None for one seed."""
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
    """The fewest seeds, two at least, that find a true difference with probability POWER; at most MOST_SEEDS."""
    if sd == 0:
        return 2
    return _fewest(lambda seeds: power(effect, sd, seeds, comparisons, alpha) >= POWER)


def equivalence_power(
    margin: float, sd: float, seeds: int, comparisons: int = 1, alpha: float = ALPHA, effect: float = 0.0
) -> float:
    """Probability that a true mean difference of `effect` is shown to be within ±margin at α / comparisons.

    P(mean - t · s/√n > -margin and mean + t · s/√n < margin): over the observed spread s, which is sd · √(χ²/degrees),
    the mean of the normal probability between the two bounds, where they leave anything between them.
    """
    import numpy as np
    from scipy.special import gammaln, ndtr, stdtrit

    degrees = seeds - 1
    critical = -float(stdtrit(degrees, alpha / comparisons))
    scale = math.sqrt(seeds) / sd
    # Spreads in units of sd: beyond the widest nothing is left between the bounds; beyond 8 deviations no spread is.
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
def _nodes() -> tuple[Any, Any]:
    """Of the Gauss-Legendre rule on [-1, 1], with their weights."""
    import numpy as np

    return np.polynomial.legendre.leggauss(80)


def seeds_to_equate(
    margin: float, sd: float, comparisons: int = 1, alpha: float = ALPHA, effect: float = 0.0
) -> int | None:
    """The fewest seeds, two at least, that show a true difference of `effect` to be within ±margin with probability
    POWER; at most MOST_SEEDS. None where it isn't within."""
    if abs(effect) >= margin:
        return None
    if sd == 0:
        return 2
    return _fewest(lambda seeds: equivalence_power(margin, sd, seeds, comparisons, alpha, effect) >= POWER)


def _fewest(enough: Callable[[int], bool]) -> int:
    """The fewest seeds that are enough, where more always are: 2 to MOST_SEEDS."""
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


def _differences(runs: Iterable[Past], metric: str, baseline: str) -> list[list[float]]:
    """Of each other arm, its differences from the baseline over the seeds that both have."""
    arms: dict[str, dict[int, float]] = {}
    for run in runs:  # oldest first: a newer run of the same arm and seed counts
        arms.setdefault(run.arm, {})[run.seed] = run.metrics[metric]
    base = arms.pop(baseline, {})
    return [[values[seed] - base[seed] for seed in values if seed in base] for values in arms.values()]

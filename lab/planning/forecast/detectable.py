"""The smallest effect that a plan's seeds can detect, given the noise seen so far. The formulas are in power.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from lab.planning.forecast.history import Past
from lab.planning.forecast.power import ALPHA, POWER, seeds_needed, seeds_to_equate, smallest_effect
from lab.planning.plan.model import Plan

TARGET = 0.01
"""The effect whose price in seeds every plan says, in the metric's unit (nats for a loss)."""
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

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def detectable(plan: Plan, past: Iterable[Past]) -> Detectable:
    """What the plan's seeds can detect in its first metric, given the finished runs under the root."""
    observed = noise(plan, past)
    seeds = len({run.seed for run in plan.runs if run.role == "report"})
    comparisons = len(plan.arms) - 1
    sd, margin = observed.sd if comparisons > 0 else None, plan.equivalence
    return Detectable(
        metric=plan.metrics[0],
        noise=observed,
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


def _differences(runs: Iterable[Past], metric: str, baseline: str) -> list[list[float]]:
    """Of each other arm, its differences from the baseline over the seeds that both have."""
    arms: dict[str, dict[int, float]] = {}
    for run in runs:  # oldest first: a newer run of the same arm and seed counts
        arms.setdefault(run.arm, {})[run.seed] = run.metrics[metric]
    base = arms.pop(baseline, {})
    return [[values[seed] - base[seed] for seed in values if seed in base] for values in arms.values()]

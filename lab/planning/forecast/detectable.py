"""The smallest effect that a plan's seeds can detect, given the noise of finished runs. Formulas are in `power.py`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from lab.planning.comparability.planned import unlike_arms
from lab.planning.forecast.history import FinishedRun, tokenizer_settings
from lab.planning.forecast.power import ALPHA, POWER, seeds_needed, seeds_to_equate, smallest_effect
from lab.planning.plan.model import Plan

TARGET = 0.01
"""Every plan shows how many seeds it takes to detect this effect, in the metric's unit (nats for a loss)."""
Source = Literal["this sweep", "other runs", "unknown"]


@dataclass(frozen=True)
class Noise:
    """How much a difference from the baseline varies from seed to seed.

    Attributes:
        sd: the standard deviation of the differences, pooled over arms; None if it is unknown.
        degrees: the degrees of freedom: pairs minus one, summed over arms.
        source: the runs behind it: finished runs of this sweep, or other runs of the same experiment and tokens.
    """

    sd: float | None = None
    degrees: int = 0
    source: Source = "unknown"


@dataclass(frozen=True)
class Detectable:
    """What a plan can detect.

    Attributes:
        metric: the metric that decides.
        noise: the noise of a difference in it.
        seeds: the reporting seeds of each arm.
        comparisons: the number of arms without the baseline.
        effect: the smallest difference that is detected with probability `power`; None if the noise is unknown, or with
            a single seed.
        seeds_for_target: the seeds that it takes to detect the target; None if the noise is unknown.
        target: the effect for `seeds_for_target`, in the metric's unit.
        alpha: the significance level of all comparisons together.
        power: the probability of detecting a true effect.
        equivalence: the sweep's margin of equivalence; None if it has none.
        seeds_for_equivalence: the seeds that it takes to show that an arm without a true difference is within the
            margin; None if there is no margin or the noise is unknown.
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
        """The content of `power` in `lab plan --json`."""
        return asdict(self)


def detectable(plan: Plan, history: Iterable[FinishedRun]) -> Detectable:
    """What the plan's seeds can detect in its first metric, given the finished runs under the root, oldest first."""
    observed = noise(plan, history)
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


def noise(plan: Plan, history: Iterable[FinishedRun]) -> Noise:
    """The noise of the plan's first metric.

    It comes from the sweep's own finished runs, or else from other runs of the same experiment, number of tokens and
    tokenizer. Arms whose metric can't be compared with their baseline's are left out.
    """
    metric = plan.metrics[0]
    usable = [run for run in history if run.role == "report" and math.isfinite(run.metrics.get(metric, math.nan))]
    planned = {run.identity for run in plan.runs}
    left_out = unlike_arms(plan, metric)
    own = [run for run in usable if run.identity in planned and run.sweep == plan.sweep and run.arm not in left_out]
    sd, degrees = pooled(_differences(own, metric, plan.baseline))
    if sd is not None:
        return Noise(sd, degrees, "this sweep")
    alike = {(run.experiment.name, run.tokens) for run in plan.runs}
    sweeps: dict[str, list[FinishedRun]] = {}
    for run in usable:
        if (run.experiment, run.tokens) in alike and _has_tokenizer_of(plan, run):
            sweeps.setdefault(run.sweep, []).append(run)
    # The baseline of another sweep is the one that its newest run records.
    groups = [_differences(_measured_alike(runs), metric, runs[-1].baseline) for runs in sweeps.values()]
    sd, degrees = pooled([differences for group in groups for differences in group])
    return Noise() if sd is None else Noise(sd, degrees, "other runs")


def pooled(samples: Iterable[Sequence[float]]) -> tuple[float | None, int]:
    """The pooled standard deviation of samples, each about its own mean, and its degrees of freedom.

    The standard deviation is None if there are no degrees of freedom.
    """
    squares, degrees = 0.0, 0
    for values in samples:
        mean = math.fsum(values) / max(1, len(values))
        squares += math.fsum((value - mean) ** 2 for value in values)
        degrees += max(0, len(values) - 1)
    return (math.sqrt(squares / degrees), degrees) if degrees else (None, 0)


def _has_tokenizer_of(plan: Plan, run: FinishedRun) -> bool:
    """Whether a run of another sweep sets the tokenizer as the plan's baseline does, or didn't record what it sets."""
    baseline = next((planned for planned in plan.runs if planned.arm == plan.baseline), plan.runs[0])
    return run.scored_by is None or tokenizer_settings(run.scored_by) == tokenizer_settings(baseline.overrides)


def _measured_alike(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """The runs of a sweep that are measured as its baseline is, as far as they recorded it."""
    base = next((run for run in reversed(runs) if run.arm == runs[-1].baseline), None)
    if base is None:
        return []
    return [
        run
        for run in runs
        if (run.scored_by is None or base.scored_by is None or run.scored_by == base.scored_by)
        and (run.text is None or base.text is None or run.text == base.text)
    ]


def _differences(runs: Iterable[FinishedRun], metric: str, baseline: str) -> list[list[float]]:
    """For each arm but the baseline, the differences from the baseline over the seeds that both have."""
    arms: dict[str, dict[int, float]] = {}
    for run in runs:  # oldest first, so that a newer run of the same arm and seed replaces an older one
        arms.setdefault(run.arm, {})[run.seed] = run.metrics[metric]
    base = arms.pop(baseline, {})
    return [[values[seed] - base[seed] for seed in values if seed in base] for values in arms.values()]

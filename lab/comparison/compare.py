"""The comparison of a sweep's arms as data: one row for each arm, for the table, the report, --json and --csv."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lab.comparison.audit import Audit, audit
from lab.comparison.comparability import Mixture, compared_metrics, mixtures, scorings_of, unlike_arms
from lab.comparison.metrics import better
from lab.comparison.read.results import ArmResults, SweepResults
from lab.comparison.statistics.factorial import Factorial, factorial
from lab.comparison.statistics.noise import NoiseFloor, noise_floor
from lab.comparison.statistics.paired import PairedDifference, Sample, paired_difference, sample
from lab.comparison.statistics.verdicts import Judgement, judge
from lab.planning.comparability.rules import Unlikeness
from lab.units import plural

UNIGRAM = "unigram/loss"
LOSS = "val/loss"  # in nats per token; the metric that the unigram loss is compared with
RECORDED_LOSSES = (LOSS, "train/loss")
"""The losses of which every run records a curve."""


@dataclass(frozen=True, kw_only=True)
class ComparisonCell(Judgement):
    """One metric of one arm, and the verdict on it.

    Attributes:
        difference: from the baseline; None in the baseline's own row, and if the baseline has no runs.
        absence: why there is no pair of values, if one of the two arms has no value of the metric at all; else None.
        diverged: how many of the arm's seeds diverged, such as "1 of 5 seeds"; None if none did. No number of this
            cell includes them.
        unlike: what keeps the metric from being compared with the baseline's. Then there is no difference and no
            verdict.
    """

    metric: str
    sample: Sample
    difference: PairedDifference | None = None
    absence: str | None = None
    diverged: str | None = None
    unlike: tuple[Unlikeness, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks to show beside the number, whatever the verdict. Diverged seeds come first."""
        diverged = (f"diverged in {self.diverged}",) if self.diverged else ()
        return diverged + self.pair_remarks

    @property
    def pair_remarks(self) -> tuple[str, ...]:
        """The remarks about the pairs of seeds, or why the arm isn't compared with the baseline."""
        if self.unlike:
            subjects = dict.fromkeys(reason.subject for reason in self.unlike)
            return (f"not comparable: {', '.join(subjects)}",)
        if self.absence is not None:
            return (self.absence,)
        return self.difference.remarks if self.difference else ()


@dataclass(frozen=True)
class ComparisonRow:
    """One arm: a cell for each metric, and its costs.

    Attributes:
        tokens_per_second: the mean over the finished runs; None if no run has finished.
        mfu: the mean model FLOPs utilisation of the finished runs, as a fraction of the devices' peak; None if no run
            has finished or the peak isn't known.
        unigram_loss: the mean over the finished runs, in nats per token: the validation loss of a unigram model, which
            only knows how frequent each token is. None if no finished run recorded it.
        mixtures: in what the arm's own runs differ, apart from their seed; there should be nothing.
    """

    arm: ArmResults
    is_baseline: bool
    cells: dict[str, ComparisonCell]
    tokens_per_second: float | None
    mfu: float | None
    unigram_loss: float | None = None
    mixtures: tuple[Mixture, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A sweep's arms, compared.

    Attributes:
        level: the confidence level of the intervals.
        sweep: the sweep's results. If one of its metrics depends on the tokenizer and the arms have several, bits per
            byte is among its metrics.
        unigram_loss: (lowest, highest) over the runs, in nats per token; None if no run recorded it. Each arm has its
            own in its row.
        audit: how far the arms are from the baseline in the costs that the sweep holds equal.
        noise: metric → the baseline's noise; empty if the baseline has no runs.
        effects: metric → main effects and interactions of the axes, or the reason why there are none.
        unlike: metric → arm → what keeps the arm from being compared with the baseline, for the sweep's metrics and the
            losses that every run records. Arms that can be compared are left out.
    """

    sweep: SweepResults
    level: float
    rows: tuple[ComparisonRow, ...]
    unigram_loss: tuple[float, float] | None
    audit: Audit
    noise: Mapping[str, NoiseFloor]
    effects: Mapping[str, Factorial]
    unlike: Mapping[str, Mapping[str, tuple[Unlikeness, ...]]] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The metric that the answer is about: the sweep's first, unless only another one can be compared."""
        metrics = self.sweep.metrics
        others = [row for row in self.rows if not row.is_baseline]
        comparable = (metric for metric in metrics if any(not row.cells[metric].unlike for row in others))
        return next(comparable, metrics[0]) if others else metrics[0]

    @property
    def comparisons(self) -> int:
        """The number of arms that are compared with the baseline. P-values are corrected for this number."""
        return len(self.rows) - 1 if self.sweep.baseline in self.sweep.arms else 0


def compare(sweep: SweepResults, *, level: float = 0.95) -> Comparison:
    """Compare a sweep's arms with its baseline, metric by metric.

    Raises:
        ValueError: the level isn't between 0 and 1.
    """
    scorings = scorings_of(sweep)
    sweep = replace(sweep, metrics=compared_metrics(sweep, scorings))
    unlike = unlike_arms(sweep, tuple(dict.fromkeys((*sweep.metrics, *RECORDED_LOSSES))), scorings)
    baseline = sweep.arms.get(sweep.baseline)
    cells: dict[str, dict[str, ComparisonCell]] = {name: {} for name in sweep.arms}
    for metric in sweep.metrics:
        values = {name: arm.values(metric) for name, arm in sweep.arms.items()}
        # An arm that can't be compared still counts as a comparison, so that it loosens no other verdict.
        differences = {
            name: paired_difference({} if name in unlike[metric] else arm_values, values[sweep.baseline], level=level)
            for name, arm_values in values.items()
            if baseline is not None and name != sweep.baseline
        }
        margin = sweep.equivalence if metric == sweep.equivalence_metric else None
        judgements = judge(differences, better(metric), level=level, margin=margin)
        for name, arm_values in values.items():
            is_compared = name in differences and name not in unlike[metric]
            cells[name][metric] = ComparisonCell(
                metric=metric,
                sample=sample(arm_values),
                difference=differences[name] if is_compared else None,
                absence=_absence(sweep.arms[name], baseline, metric) if baseline and is_compared else None,
                diverged=_diverged(sweep.arms[name]),
                unlike=unlike[metric].get(name, ()),
                **vars(judgements[name] if is_compared else Judgement()),
            )
    unigram = [run.metrics[UNIGRAM] for run in sweep.runs() if math.isfinite(run.metrics.get(UNIGRAM, math.nan))]
    return Comparison(
        sweep,
        level,
        tuple(_row(arm, arm is baseline, cells[arm.name]) for arm in sweep.arms.values()),
        (min(unigram), max(unigram)) if unigram else None,
        audit(sweep),
        {metric: noise_floor(baseline, metric) for metric in sweep.metrics} if baseline else {},
        {metric: _effects(sweep, metric, unlike[metric], level) for metric in sweep.metrics},
        unlike,
    )


def _row(arm: ArmResults, is_baseline: bool, cells: dict[str, ComparisonCell]) -> ComparisonRow:
    return ComparisonRow(
        arm,
        is_baseline,
        cells,
        arm.mean_cost("tokens_per_second"),
        arm.mean_cost("mfu"),
        sample(arm.values(UNIGRAM)).mean,
        mixtures(arm),
    )


def _effects(sweep: SweepResults, metric: str, unlike: Mapping[str, tuple[Unlikeness, ...]], level: float) -> Factorial:
    """The effects of a grid's axes, unless some of its cells can't be compared with the others."""
    effects = factorial(sweep, metric, level=level)
    if not unlike or effects.reason is not None:
        return effects
    arm, (reason, *_) = next(iter(unlike.items()))
    return Factorial(metric, effects.factors, reason=f"{arm} can't be compared with the baseline: {reason.text}")


def _absence(arm: ArmResults, baseline: ArmResults, metric: str) -> str | None:
    """Why an arm and the baseline have no pair of values, where one of them has no value at all."""
    lacking = {
        name: side.finished > 0 for name, side in (("arm", arm), ("baseline", baseline)) if not side.values(metric)
    }
    unfinished = [name for name, has_finished in lacking.items() if not has_finished]
    if unfinished:
        return f"no seed of the {' or the '.join(unfinished)} has finished"
    if lacking:
        return f"not measured in the {' or the '.join(lacking)}"
    return None


def _diverged(arm: ArmResults) -> str | None:
    diverged = arm.statuses.get("diverged", 0)
    return f"{diverged} of {plural(len(arm.runs), 'seed')}" if diverged else None

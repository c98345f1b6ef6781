"""The comparison of a sweep's arms as data: one row for each arm, for the table, the report, --json and --csv."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lab.comparison.audit import Audit, audit
from lab.comparison.metrics import better
from lab.comparison.read.results import ArmResults, SweepResults
from lab.comparison.statistics.factorial import Factorial, factorial
from lab.comparison.statistics.noise import NoiseFloor, noise_floor
from lab.comparison.statistics.paired import PairedDifference, Sample, paired_difference, sample
from lab.comparison.statistics.verdicts import Judgement, judge
from lab.units import plural

UNIGRAM = "unigram/loss"
LOSS = "val/loss"  # in nats per token; the metric that the unigram loss is compared with


@dataclass(frozen=True, kw_only=True)
class ComparisonCell(Judgement):
    """One metric of one arm, and the verdict on it.

    Attributes:
        difference: from the baseline; None in the baseline's own row, and if the baseline has no runs.
        diverged: how many of the arm's seeds diverged, such as "1 of 5 seeds"; None if none did. No number of this
            cell includes them.
    """

    metric: str
    sample: Sample
    difference: PairedDifference | None = None
    diverged: str | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks to show beside the number, whatever the verdict. Diverged seeds come first."""
        diverged = (f"diverged in {self.diverged}",) if self.diverged else ()
        return diverged + (self.difference.remarks if self.difference else ())


@dataclass(frozen=True)
class ComparisonRow:
    """One arm: a cell for each metric, and its costs.

    Attributes:
        tokens_per_second: the mean over the finished runs; None if no run has finished.
        mfu: the mean model FLOPs utilisation of the finished runs, as a fraction of the devices' peak; None if no run
            has finished or the peak isn't known.
    """

    arm: ArmResults
    is_baseline: bool
    cells: dict[str, ComparisonCell]
    tokens_per_second: float | None
    mfu: float | None


@dataclass(frozen=True)
class Comparison:
    """A sweep's arms, compared.

    Attributes:
        level: the confidence level of the intervals.
        unigram_loss: (lowest, highest) over the runs, in nats per token: the validation loss of a unigram model, which
            only knows how frequent each token is. None if no run recorded it.
        audit: how far the arms are from the baseline in the costs that the sweep holds equal.
        noise: metric → the baseline's noise; empty if the baseline has no runs.
        effects: metric → main effects and interactions of the axes, or the reason why there are none.
    """

    sweep: SweepResults
    level: float
    rows: tuple[ComparisonRow, ...]
    unigram_loss: tuple[float, float] | None
    audit: Audit
    noise: Mapping[str, NoiseFloor]
    effects: Mapping[str, Factorial]

    @property
    def comparisons(self) -> int:
        """The number of arms that are compared with the baseline. P-values are corrected for this number."""
        return len(self.rows) - 1 if self.sweep.baseline in self.sweep.arms else 0


def compare(sweep: SweepResults, *, level: float = 0.95) -> Comparison:
    """Compare a sweep's arms with its baseline, metric by metric.

    Raises:
        ValueError: the level isn't between 0 and 1.
    """
    baseline = sweep.arms.get(sweep.baseline)
    cells: dict[str, dict[str, ComparisonCell]] = {name: {} for name in sweep.arms}
    for metric in sweep.metrics:
        values = {name: arm.values(metric) for name, arm in sweep.arms.items()}
        differences = {
            name: paired_difference(arm_values, values[sweep.baseline], level=level)
            for name, arm_values in values.items()
            if baseline is not None and name != sweep.baseline
        }
        margin = sweep.equivalence if metric == sweep.metrics[0] else None
        judgements = judge(differences, better(metric), level=level, margin=margin)
        for name, arm_values in values.items():
            cells[name][metric] = ComparisonCell(
                metric=metric,
                sample=sample(arm_values),
                difference=differences.get(name),
                diverged=_diverged(sweep.arms[name]),
                **vars(judgements.get(name, Judgement())),
            )
    rows = tuple(
        ComparisonRow(arm, arm is baseline, cells[arm.name], arm.mean_cost("tokens_per_second"), arm.mean_cost("mfu"))
        for arm in sweep.arms.values()
    )
    unigram = [run.metrics[UNIGRAM] for run in sweep.runs() if math.isfinite(run.metrics.get(UNIGRAM, math.nan))]
    return Comparison(
        sweep,
        level,
        rows,
        (min(unigram), max(unigram)) if unigram else None,
        audit(sweep),
        {metric: noise_floor(baseline, metric) for metric in sweep.metrics} if baseline else {},
        {metric: factorial(sweep, metric, level=level) for metric in sweep.metrics},
    )


def _diverged(arm: ArmResults) -> str | None:
    diverged = arm.statuses.get("diverged", 0)
    return f"{diverged} of {plural(len(arm.runs), 'seed')}" if diverged else None

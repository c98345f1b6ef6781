"""The comparison of a sweep's arms as data: one row an arm, for the table, the report, --json and --csv."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.comparison.audit import Audit, audit
from lab.comparison.metrics import better
from lab.comparison.read.results import Arm, Sweep
from lab.comparison.statistics.equivalence import Equivalence
from lab.comparison.statistics.factorial import Factorial, factorial
from lab.comparison.statistics.noise import NoiseFloor, noise_floor
from lab.comparison.statistics.paired import Interval, PairedDifference, Sample, paired_difference, sample
from lab.comparison.statistics.verdicts import Judgement, Verdict, judge
from lab.comparison.tables import export

UNIGRAM = "unigram/loss"
LOSS = "val/loss"  # the metric in nats per token that the unigram loss is a yardstick for


@dataclass(frozen=True)
class Cell:
    """One metric of one arm.

    Attributes:
        difference: from the baseline; None in the baseline's own row and where the baseline has no value.
        judgement: what is said of the difference beside the other arms' in this metric; None where that is.
        diverged: how many of the arm's seeds diverged, "1 of 5 seeds", which are in none of the numbers; None if none.
    """

    metric: str
    sample: Sample
    difference: PairedDifference | None
    judgement: Judgement | None = None
    diverged: str | None = None

    @property
    def verdict(self) -> Verdict | None:
        return self.judgement.verdict if self.judgement else None

    @property
    def p(self) -> float | None:
        return self.judgement.p if self.judgement else None

    @property
    def p_holm(self) -> float | None:
        return self.judgement.p_holm if self.judgement else None

    @property
    def sign_flip_p(self) -> float | None:
        return self.judgement.sign_flip_p if self.judgement else None

    @property
    def bootstrap(self) -> Interval | None:
        return self.judgement.bootstrap if self.judgement else None

    @property
    def equivalence(self) -> Equivalence | None:
        return self.judgement.equivalence if self.judgement else None

    @property
    def seeds_needed(self) -> int | None:
        return self.judgement.seeds_needed if self.judgement else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What must be said beside the number, whatever the verdict: first that seeds diverged."""
        diverged = (f"diverged in {self.diverged}",) if self.diverged else ()
        return diverged + (self.difference.remarks if self.difference else ())


@dataclass(frozen=True)
class Row:
    """One arm: a cell a metric, and what it costs.

    Attributes:
        tokens_per_second: mean over the finished runs; None before the first.
        mfu: the same of the share of the devices' peak; None too where no peak is known.
    """

    arm: Arm
    is_baseline: bool
    cells: dict[str, Cell]
    tokens_per_second: float | None
    mfu: float | None


@dataclass(frozen=True)
class Comparison:
    """A sweep's arms, compared.

    Attributes:
        level: of the intervals.
        unigram_loss: (lowest, highest) over the runs, in nats per token: the loss on the validation text of a model
            that only counts tokens. None where no run recorded it.
        audit: how far the arms are from the baseline in what is held equal.
        noise: metric → the baseline's noise; empty where it has no runs.
        effects: metric → main effects and interactions of the axes, or why there are none.
    """

    sweep: Sweep
    level: float
    rows: tuple[Row, ...]
    unigram_loss: tuple[float, float] | None
    audit: Audit
    noise: Mapping[str, NoiseFloor] = field(default_factory=dict)
    effects: Mapping[str, Factorial] = field(default_factory=dict)

    @property
    def comparisons(self) -> int:
        """Arms that are compared with the baseline: what p-values are corrected for."""
        return len(self.rows) - 1 if self.sweep.baseline in self.sweep.arms else 0

    def as_json(self) -> str:
        """The comparison as strict JSON: what isn't finite or isn't known is null."""
        return export.as_json(self)

    def as_data(self) -> dict[str, Any]:
        """The comparison as plain lists and dicts, the fields of the JSON."""
        return export.as_data(self)

    def as_csv(self) -> str:
        """One line an arm and metric; swept axes as `axis:<name>`, an arm's picks of tuned axes as `tuned:<name>`."""
        return export.as_csv(self)


def compare(sweep: Sweep, *, level: float = 0.95) -> Comparison:
    """Compare a sweep's arms with its baseline, metric by metric.

    Raises:
        ValueError: the level isn't between 0 and 1.
    """
    baseline = sweep.arms.get(sweep.baseline)
    cells: dict[str, dict[str, Cell]] = {name: {} for name in sweep.arms}
    for metric in sweep.metrics:
        values = {name: arm.values(metric) for name, arm in sweep.arms.items()}
        differences = {
            name: paired_difference(found, values[sweep.baseline], level=level)
            for name, found in values.items()
            if baseline is not None and name != sweep.baseline
        }
        margin = sweep.equivalence if metric == sweep.metrics[0] else None
        judged = judge(differences, better(metric), level=level, margin=margin)
        for name, found in values.items():
            of_arm = (differences.get(name), judged.get(name), _diverged(sweep.arms[name]))
            cells[name][metric] = Cell(metric, sample(found), *of_arm)
    rows = tuple(
        Row(arm, arm is baseline, cells[arm.name], arm.mean_cost("tokens_per_second"), arm.mean_cost("mfu"))
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


def _diverged(arm: Arm) -> str | None:
    diverged = arm.statuses.get("diverged", 0)
    return f"{diverged} of {len(arm.runs)} seed{'s' if len(arm.runs) > 1 else ''}" if diverged else None

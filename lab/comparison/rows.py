"""The comparison of a sweep's arms as data: one row an arm, for the table, for --json and for --csv.

Field names of the JSON and of the CSV don't change without VERSION.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lab.comparison.audit import Audit, audit
from lab.comparison.metrics import better, title
from lab.comparison.results import BUDGET, COSTS, Arm, Sweep
from lab.comparison.statistics import PairedDifference, Sample, paired_difference, sample

VERSION = 1
UNIGRAM = "unigram/loss"
LOSS = "val/loss"  # the metric in nats per token that the unigram loss is a yardstick for

Verdict = Literal["better", "worse", "different", "unclear"]


@dataclass(frozen=True)
class Cell:
    """One metric of one arm.

    Attributes:
        difference: from the baseline; None in the baseline's own row and where the baseline has no value.
    """

    metric: str
    sample: Sample
    difference: PairedDifference | None

    @property
    def verdict(self) -> Verdict | None:
        """Whether the interval says better or worse; `different` for a metric whose direction isn't known."""
        if self.difference is None:
            return None
        sign, direction = self.difference.verdict, better(self.metric)
        if sign == "unclear":
            return "unclear"
        if direction is None:
            return "different"
        return "better" if sign == direction else "worse"


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
    """

    sweep: Sweep
    level: float
    rows: tuple[Row, ...]
    unigram_loss: tuple[float, float] | None
    audit: Audit

    def as_json(self) -> str:
        """The comparison as strict JSON: what isn't finite or isn't known is null."""
        return json.dumps(_strict(self.as_data()), indent=1, ensure_ascii=False, allow_nan=False)

    def as_data(self) -> dict[str, Any]:
        """The comparison as plain lists and dicts, the fields of the JSON."""
        sweep = self.sweep
        return {
            "version": VERSION,
            "sweep": sweep.name,
            "question": sweep.question,
            "baseline": sweep.baseline,
            "match": sweep.match,
            "tolerance": sweep.tolerance,
            "level": self.level,
            "metrics": [{"metric": name, "title": title(name), "better": better(name)} for name in sweep.metrics],
            "unigram_loss": list(self.unigram_loss) if self.unigram_loss else None,
            "left_out": [{"arm": run.arm, "seed": run.seed, "identity": run.identity} for run in sweep.left_out],
            "broken": [{"path": str(path), "problem": problem} for path, problem in sweep.broken],
            "arms": [_row_data(row, self.audit) for row in self.rows],
        }

    def as_csv(self) -> str:
        """One line an arm and metric; swept axes as `axis:<name>`, an arm's picks of tuned axes as `tuned:<name>`."""
        axes, tuned = self.sweep.axes, self.sweep.tuned
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(
            [*_CSV, *COSTS, "tokens_per_second", *(f"axis:{axis}" for axis in axes), *BUDGET, "off_match"]
            + [f"tuned:{axis}" for axis in tuned]
            + ["mfu"]
        )
        for row in self.rows:
            costs = [*(row.arm.costs.get(name) for name in COSTS), row.tokens_per_second]
            states = " ".join(f"{status}:{n}" for status, n in row.arm.statuses.items())
            for cell in row.cells.values():
                data = _cell_data(cell) | {
                    "sweep": self.sweep.name,
                    "arm": row.arm.name,
                    "is_baseline": str(row.is_baseline).lower(),
                    "metric": cell.metric,
                    "states": states,
                    "level": self.level,
                }
                values = [data[name] for name in _CSV]
                swept = [_axis_text(row.arm.axes, axis) for axis in axes]
                budget = [*(row.arm.costs.get(name) for name in BUDGET), self.audit.describe(row.arm.name)]
                lines.writerow(
                    [*values, *costs, *swept, *budget, *(_axis_text(row.arm.picked, axis) for axis in tuned), row.mfu]
                )
        return text.getvalue()


_CSV = (
    *("sweep", "arm", "is_baseline", "metric", "states", "n", "mean", "sd"),
    *("pairs", "difference", "low", "high", "level", "difference_sd", "correlation", "verdict"),
)


def compare(sweep: Sweep, *, level: float = 0.95) -> Comparison:
    """Compare a sweep's arms with its baseline, metric by metric.

    Raises:
        ValueError: the level isn't between 0 and 1.
    """
    baseline = sweep.arms.get(sweep.baseline)
    rows = []
    for arm in sweep.arms.values():
        cells = {}
        for metric in sweep.metrics:
            values = arm.values(metric)
            compared = baseline is not None and arm is not baseline
            difference = paired_difference(values, baseline.values(metric), level=level) if compared else None  # type: ignore[union-attr]
            cells[metric] = Cell(metric, sample(values), difference)
        rows.append(Row(arm, arm is baseline, cells, arm.mean_cost("tokens_per_second"), arm.mean_cost("mfu")))
    unigram = [run.metrics[UNIGRAM] for run in sweep.runs() if math.isfinite(run.metrics.get(UNIGRAM, math.nan))]
    return Comparison(sweep, level, tuple(rows), (min(unigram), max(unigram)) if unigram else None, audit(sweep))


def _row_data(row: Row, audit: Audit) -> dict[str, Any]:
    return {
        "arm": row.arm.name,
        "is_baseline": row.is_baseline,
        "axes": row.arm.axes,
        "states": row.arm.statuses,
        "metrics": {name: _cell_data(cell) for name, cell in row.cells.items()},
        **{name: row.arm.costs.get(name) for name in (*COSTS, *BUDGET)},
        "deviations": dict(audit.deviations.get(row.arm.name, {})),
        "off_match": sorted(audit.off(row.arm.name)),
        "tuned": row.arm.selection.as_dict() if row.arm.selection else None,
        "tokens_per_second": row.tokens_per_second,
        "mfu": row.mfu,
        "seeds": [
            {
                "seed": seed,
                "identity": run.identity or None,
                "run": run.folder.name if run.folder else None,
                "status": run.status,
                "reason": run.reason,
                "metrics": run.metrics,
                "costs": run.costs,
            }
            for seed, run in row.arm.runs.items()
        ],
    }


def _cell_data(cell: Cell) -> dict[str, Any]:
    difference = cell.difference
    interval = difference.interval if difference else None
    return {
        "n": cell.sample.n,
        "mean": cell.sample.mean,
        "sd": cell.sample.sd,
        "not_finite": list(cell.sample.not_finite),
        "pairs": difference.n if difference else None,
        "difference": difference.mean if difference else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "difference_sd": difference.sd if difference else None,
        "correlation": difference.correlation if difference else None,
        "verdict": cell.verdict,
        "remarks": list(difference.remarks) if difference else [],
    }


def _axis_text(axes: Mapping[str, Any], axis: str) -> str:
    """An axis's value as a sweep's file writes it: null and true, not None and True. Empty where the arm lacks it."""
    if axis not in axes:
        return ""
    value = axes[axis]
    return value if isinstance(value, str) else json.dumps(value)


def _strict(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _strict(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_strict(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data

"""The comparison of a sweep's arms as JSON and as CSV.

Field names don't change without VERSION; new columns of the CSV stand at its end.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lab.comparison.metrics import better, title
from lab.comparison.read.results import BUDGET, COSTS

if TYPE_CHECKING:
    from lab.comparison.audit import Audit
    from lab.comparison.compare import Cell, Comparison, Row
    from lab.comparison.statistics.factorial import Effect, Factorial
    from lab.comparison.statistics.paired import Interval

VERSION = 2

_CSV = (
    *("sweep", "arm", "is_baseline", "metric", "states", "n", "mean", "sd"),
    *("pairs", "difference", "low", "high", "level", "difference_sd", "correlation", "verdict"),
)


_CSV_JUDGED = (
    *("p", "p_holm", "sign_flip_p", "bootstrap_low", "bootstrap_high"),
    *("equivalence_margin", "equivalence_p", "equivalence_p_holm", "equivalence_low", "equivalence_high"),
    *("seeds_needed", "diverged", "remarks"),
)


def as_json(comparison: Comparison) -> str:
    """Strict JSON: what isn't finite or isn't known is null."""
    return json.dumps(_strict(as_data(comparison)), indent=1, ensure_ascii=False, allow_nan=False)


def as_data(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain lists and dicts, the fields of the JSON."""
    sweep = comparison.sweep
    return {
        "version": VERSION,
        "sweep": sweep.name,
        "question": sweep.question,
        "baseline": sweep.baseline,
        "match": sweep.match,
        "tolerance": sweep.tolerance,
        "level": comparison.level,
        "equivalence": sweep.equivalence,
        "comparisons": comparison.comparisons,
        "metrics": [{"metric": name, "title": title(name), "better": better(name)} for name in sweep.metrics],
        "unigram_loss": list(comparison.unigram_loss) if comparison.unigram_loss else None,
        "left_out": [{"arm": run.arm, "seed": run.seed, "identity": run.identity} for run in sweep.left_out],
        "broken": [{"path": str(path), "problem": problem} for path, problem in sweep.broken],
        "noise": [floor.as_dict() for floor in comparison.noise.values()],
        "effects": [_factorial_data(found) for found in comparison.effects.values()],
        "arms": [_row_data(row, comparison.audit) for row in comparison.rows],
    }


def as_csv(comparison: Comparison) -> str:
    """One line an arm and metric; swept axes as `axis:<name>`, an arm's picks of tuned axes as `tuned:<name>`."""
    axes, tuned = comparison.sweep.axes, comparison.sweep.tuned
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(
        [*_CSV, *COSTS, "tokens_per_second", *(f"axis:{axis}" for axis in axes), *BUDGET, "off_match"]
        + [f"tuned:{axis}" for axis in tuned]
        + ["mfu", *_CSV_JUDGED]
    )
    for row in comparison.rows:
        costs = [*(row.arm.costs.get(name) for name in COSTS), row.tokens_per_second]
        states = " ".join(f"{status}:{n}" for status, n in row.arm.statuses.items())
        for cell in row.cells.values():
            data = _cell_data(cell) | {
                "sweep": comparison.sweep.name,
                "arm": row.arm.name,
                "is_baseline": str(row.is_baseline).lower(),
                "metric": cell.metric,
                "remarks": "; ".join(cell.remarks),
                "states": states,
                "level": comparison.level,
            }
            values = [data[name] for name in _CSV]
            swept = [_axis_text(row.arm.axes, axis) for axis in axes]
            budget = [*(row.arm.costs.get(name) for name in BUDGET), comparison.audit.describe(row.arm.name)]
            picked = [_axis_text(row.arm.picked, axis) for axis in tuned]
            judged = [_flat(data)[name] for name in _CSV_JUDGED]
            lines.writerow([*values, *costs, *swept, *budget, *picked, row.mfu, *judged])
    return text.getvalue()


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
        "remarks": list(cell.remarks),
        "p": cell.p,
        "p_holm": cell.p_holm,
        "sign_flip_p": cell.sign_flip_p,
        "bootstrap": _ends(cell.bootstrap),
        "equivalence": {
            "margin": cell.equivalence.margin,
            "p": cell.equivalence.p,
            "p_holm": cell.equivalence.p_holm,
            "interval": _ends(cell.equivalence.interval),
        }
        if cell.equivalence
        else None,
        "seeds_needed": cell.seeds_needed,
        "diverged": cell.diverged,
    }


def _flat(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's data with the ends of intervals as entries of their own."""
    equivalence = cell["equivalence"] or {}
    low, high = cell["bootstrap"] or (None, None)
    equal_low, equal_high = equivalence.get("interval") or (None, None)
    return {
        **cell,
        "bootstrap_low": low,
        "bootstrap_high": high,
        **{f"equivalence_{name}": equivalence.get(name) for name in ("margin", "p", "p_holm")},
        "equivalence_low": equal_low,
        "equivalence_high": equal_high,
    }


def _ends(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None


def _factorial_data(found: Factorial) -> dict[str, Any]:
    return {
        "metric": found.metric,
        "factors": [{"name": factor.name, "levels": list(factor.levels)} for factor in found.factors],
        "seeds": list(found.seeds),
        "lacking": {str(seed): list(arms) for seed, arms in found.lacking},
        "reason": found.reason,
        "effects": [_effect_data(effect) for effect in found.effects],
    }


def _effect_data(effect: Effect) -> dict[str, Any]:
    return vars(effect) | {"name": effect.name, "interval": _ends(effect.interval)}


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

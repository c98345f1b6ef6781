"""The comparison of a sweep's arms as JSON and as CSV.

Renaming a field requires a new VERSION. New CSV columns are added at the end.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence

from lab.comparison.audit import Audit
from lab.comparison.compare import Comparison, ComparisonCell, ComparisonRow
from lab.comparison.metrics import better, title
from lab.comparison.read.results import BUDGET, COSTS
from lab.comparison.statistics.factorial import Factorial
from lab.comparison.statistics.noise import POINTS
from lab.comparison.statistics.paired import Interval
from lab.refusals import RequestError

VERSION = 2

JsonData = dict[str, object]
"""A JSON object: its values are plain lists, dicts, strings, numbers, booleans and None."""

_FIRST = (
    *("sweep", "arm", "is_baseline", "metric", "states", "n", "mean", "sd"),
    *("pairs", "difference", "low", "high", "level", "difference_sd", "correlation", "verdict"),
)
_LAST = (
    *("p", "p_holm", "sign_flip_p", "bootstrap_low", "bootstrap_high"),
    *("equivalence_margin", "equivalence_p", "equivalence_p_holm", "equivalence_low", "equivalence_high"),
    *("seeds_needed", "diverged", "remarks"),
)


def as_json(*comparisons: Comparison) -> str:
    """The comparison as strict JSON: values that aren't finite or aren't known are null.

    Several comparisons are the list `sweeps` of an object that has the version too.
    """
    data = [as_data(comparison) for comparison in comparisons]
    content = data[0] if len(data) == 1 else {"version": VERSION, "sweeps": data}
    return json.dumps(_strict(content), indent=1, ensure_ascii=False, allow_nan=False)


def as_data(comparison: Comparison) -> JsonData:
    """The comparison as plain lists and dicts, with the fields of `as_json`; floats may be NaN or infinite."""
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
        "noise": [vars(floor) | {"points": POINTS} for floor in comparison.noise.values()],
        "effects": [_effects_data(effects) for effects in comparison.effects.values()],
        "arms": [_row_data(row, comparison.audit) for row in comparison.rows],
    }


def as_csv(*comparisons: Comparison, chosen: Sequence[str] | None = None) -> str:
    """A line for each sweep, arm and metric. Columns of swept axes are called `axis:<name>`, of tuned axes
    `tuned:<name>`.

    Args:
        chosen: the columns besides sweep, arm and metric; None for all.
    Raises:
        RequestError: there is no such column.
    """
    axes = tuple(dict.fromkeys(axis for comparison in comparisons for axis in comparison.sweep.axes))
    tuned = tuple(dict.fromkeys(axis for comparison in comparisons for axis in comparison.sweep.tuned))
    names = [*_FIRST, *COSTS, "tokens_per_second", *(f"axis:{axis}" for axis in axes), *BUDGET, "off_match"]
    names += [*(f"tuned:{axis}" for axis in tuned), "mfu", *_LAST, "not_comparable", "mixed", "unigram_loss"]
    check_columns(chosen or (), names)
    shown = [name for name in names if chosen is None or name in ("sweep", "arm", "metric") or name in chosen]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(shown)
    for comparison in comparisons:
        for row in comparison.rows:
            for line in _csv_lines(comparison, row, axes, tuned):
                lines.writerow([line[name] for name in shown])
    return text.getvalue()


def check_columns(chosen: Sequence[str], names: Sequence[str]) -> None:
    """Check that all chosen columns exist.

    Raises:
        RequestError: one doesn't.
    """
    for name in chosen:
        if name not in names:
            problem = f"there is no column '{name}'"
            raise RequestError(problem, kind="not_found", key="--columns", given=name, expected=tuple(names))


def _csv_lines(
    comparison: Comparison, row: ComparisonRow, axes: Sequence[str], tuned: Sequence[str]
) -> Iterator[JsonData]:
    """Column → value for each metric of an arm."""
    arm = row.arm
    of_arm: JsonData = {
        "sweep": comparison.sweep.name,
        "arm": arm.name,
        "is_baseline": str(row.is_baseline).lower(),
        "states": " ".join(f"{status}:{n}" for status, n in arm.statuses.items()),
        "level": comparison.level,
        **{name: arm.costs.get(name) for name in (*COSTS, *BUDGET)},
        "tokens_per_second": row.tokens_per_second,
        "mfu": row.mfu,
        **{f"axis:{axis}": _axis_text(arm.axes, axis) for axis in axes},
        "off_match": comparison.audit.describe(arm.name),
        **{f"tuned:{axis}": _axis_text(arm.picked, axis) for axis in tuned},
        "mixed": "; ".join(mixture.text for mixture in row.mixtures),
        "unigram_loss": row.unigram_loss,
    }
    for cell in row.cells.values():
        yield _cell_columns(cell) | of_arm | {"metric": cell.metric}


def _row_data(row: ComparisonRow, audit: Audit) -> JsonData:
    return {
        "arm": row.arm.name,
        "is_baseline": row.is_baseline,
        "axes": row.arm.axes,
        "states": row.arm.statuses,
        "metrics": {name: _cell_data(cell) for name, cell in row.cells.items()},
        **{name: row.arm.costs.get(name) for name in (*COSTS, *BUDGET)},
        "deviations": dict(audit.deviations.get(row.arm.name, {})),
        "off_match": sorted(audit.mismatches(row.arm.name)),
        "tuned": row.arm.selection.as_dict() if row.arm.selection else None,
        "tokens_per_second": row.tokens_per_second,
        "mfu": row.mfu,
        "unigram_loss": row.unigram_loss,
        "mixed": [{"subject": mixture.subject, "seeds": dict(mixture.seeds)} for mixture in row.mixtures],
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


def _cell_data(cell: ComparisonCell) -> JsonData:
    difference = cell.difference
    low, high = _ends(difference.interval if difference else None) or (None, None)
    return {
        "n": cell.sample.n,
        "mean": cell.sample.mean,
        "sd": cell.sample.sd,
        "not_finite": list(cell.sample.not_finite),
        "pairs": difference.n if difference else None,
        "difference": difference.mean if difference else None,
        "low": low,
        "high": high,
        "difference_sd": difference.sd if difference else None,
        "correlation": difference.correlation if difference else None,
        "verdict": cell.verdict,
        "remarks": list(cell.remarks),
        "p": cell.p,
        "p_holm": cell.p_holm,
        "sign_flip_p": cell.sign_flip_p,
        "bootstrap": _ends(cell.bootstrap),
        "equivalence": vars(cell.equivalence) | {"interval": _ends(cell.equivalence.interval)}
        if cell.equivalence
        else None,
        "seeds_needed": cell.seeds_needed,
        "diverged": cell.diverged,
        "not_comparable": [vars(reason) for reason in cell.unlike],
    }


def _cell_columns(cell: ComparisonCell) -> JsonData:
    """A cell's data for the CSV, in which the ends of intervals have columns of their own."""
    equivalence = cell.equivalence
    low, high = _ends(cell.bootstrap) or (None, None)
    equivalence_low, equivalence_high = _ends(equivalence.interval if equivalence else None) or (None, None)
    return {
        **_cell_data(cell),
        "remarks": "; ".join(cell.remarks),
        "not_comparable": "; ".join(reason.text for reason in cell.unlike),
        "bootstrap_low": low,
        "bootstrap_high": high,
        "equivalence_margin": equivalence.margin if equivalence else None,
        "equivalence_p": equivalence.p if equivalence else None,
        "equivalence_p_holm": equivalence.p_holm if equivalence else None,
        "equivalence_low": equivalence_low,
        "equivalence_high": equivalence_high,
    }


def _ends(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None


def _effects_data(effects: Factorial) -> JsonData:
    return {
        "metric": effects.metric,
        "factors": [{"name": factor.name, "levels": list(factor.levels)} for factor in effects.factors],
        "seeds": list(effects.seeds),
        "lacking": {str(seed): list(arms) for seed, arms in effects.lacking},
        "reason": effects.reason,
        "effects": [
            vars(effect) | {"name": effect.name, "interval": _ends(effect.interval)} for effect in effects.effects
        ],
    }


def _axis_text(axes: Mapping[str, object], axis: str) -> str:
    """An arm's value on an axis, written as in the sweep's file: null and true, not None and True; empty if none."""
    if axis not in axes:
        return ""
    value = axes[axis]
    return value if isinstance(value, str) else json.dumps(value)


def _strict(data: object) -> object:
    if isinstance(data, Mapping):
        return {key: _strict(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_strict(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data

"""Sweeps as tidy tables: a row a run, or a row a point, for a person who goes on in a notebook."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from components.registry import suggestion
from lab.comparison.collect import collect
from lab.comparison.results import Arm, Run, Sweep
from lab.errors import RequestError

if TYPE_CHECKING:
    from lab.comparison.curves import X

Row = dict[str, Any]


def table(rows: list[Row]) -> Any:
    """Rows as a pandas DataFrame; where pandas isn't installed, as they are."""
    try:
        import pandas  # type: ignore[import-untyped]
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def results(sweeps: Sequence[str], root: Path | str | None = None) -> list[Row]:
    """A row a run, all with the same keys; what a run hasn't is NaN among metrics and costs, and None elsewhere."""
    runs = list(_runs(sweeps, root))
    axes = _union(arm.axes | arm.picked for _, arm, _ in runs)
    metrics = _union(run.metrics for _, _, run in runs)
    costs = _union(arm.costs | run.costs for _, arm, run in runs)
    rows = []
    for sweep, arm, run in runs:
        place = run.folder.path.relative_to(_root(root)).as_posix() if run.folder else None
        row = _label(sweep, arm, run) | {
            "status": run.status,
            "reason": run.reason,
            "identity": run.identity or None,
            "run": place,
        }
        swept, paid = arm.axes | arm.picked, arm.costs | run.costs
        row |= {axis: swept.get(axis) for axis in axes}
        row |= {metric: run.metrics.get(metric, float("nan")) for metric in metrics}
        rows.append(row | {cost: paid.get(cost, float("nan")) for cost in costs})
    return rows


def curves(sweeps: Sequence[str], metric: str, x: X, root: Path | str | None = None) -> list[Row]:
    """A row a point of the runs' curves of one metric."""
    from lab.comparison.curves import X as KNOWN
    from lab.comparison.curves import run_curve

    if x not in get_args(KNOWN):
        raise RequestError(f"x='{x}': expected one of {', '.join(get_args(KNOWN))}{suggestion(x, get_args(KNOWN))}")
    rows = []
    for sweep, arm, run in _runs(sweeps, root):
        if run.folder is not None:
            curve = run_curve(run, metric, x)
            label = _label(sweep, arm, run)
            rows += [label | {x: at, metric: value} for at, value in zip(curve.x, curve.y, strict=True)]
    if not rows:
        known = sorted({name for _, _, run in _runs(sweeps, root) for name in run.metrics})
        raise RequestError(f"no run of {', '.join(sweeps)} has a curve of '{metric}'{suggestion(metric, known)}")
    return rows


def _runs(sweeps: Sequence[str], root: Path | str | None) -> Iterator[tuple[Sweep, Arm, Run]]:
    if not sweeps:
        raise RequestError("name at least one sweep")
    for name in sweeps:
        sweep = collect(_root(root), name)
        for arm in sweep.arms.values():
            for run in arm.runs.values():
                yield sweep, arm, run


def _root(root: Path | str | None) -> Path:
    return Path(os.environ.get("LAB_ROOT", "runs") if root is None else root)


def _label(sweep: Sweep, arm: Arm, run: Run) -> Row:
    return {"sweep": sweep.name, "arm": arm.name, "is_baseline": arm.name == sweep.baseline, "seed": run.seed}


def _union(parts: Any) -> list[str]:
    """All keys, in the order in which they first stand."""
    return list(dict.fromkeys(key for part in parts for key in part))

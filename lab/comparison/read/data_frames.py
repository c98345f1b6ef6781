"""Sweeps as tidy tables: a row a run, or a row a point, for a person who goes on in a notebook."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from components.registry import suggestion
from lab.comparison.read.collect import collect
from lab.comparison.read.labels import clean
from lab.comparison.read.results import Arm, Run, Sweep
from lab.refusals import RequestError

if TYPE_CHECKING:
    from lab.comparison.read.curves import X

Row = dict[str, Any]
_LINES = 1_000  # of a run, among which every metric with a curve stands


_LABELS = ("sweep", "arm", "is_baseline", "seed", "status", "reason", "identity", "run")


def table(rows: list[Row]) -> Any:
    """Rows as a pandas DataFrame; where pandas isn't installed, as they are."""
    try:
        import pandas  # type: ignore[import-untyped]
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def results(sweeps: Sequence[str], root: Path | str | None = None) -> list[Row]:
    """A row a run, all with the same keys; what a run hasn't is NaN among metrics and costs, and None elsewhere.

    An axis or a cost whose name another column has is called `axis:…` or `cost:…`.
    """
    runs = list(_runs(sweeps, root))
    axes = _union(arm.axes | arm.picked for _, arm, _ in runs)
    metrics = _union(run.metrics for _, _, run in runs)
    costs = _union(arm.costs | run.costs for _, arm, run in runs)
    taken = {*_LABELS, *metrics}
    column = {axis: f"axis:{axis}" if axis in taken or axis in costs else axis for axis in axes}
    priced = {cost: f"cost:{cost}" if cost in taken else cost for cost in costs}
    rows = []
    for sweep, arm, run in runs:
        place = clean(run.folder.path.relative_to(_root(root)).as_posix()) if run.folder else None
        row = _label(sweep, arm, run) | {
            "status": run.status,
            "reason": run.reason,
            "identity": run.identity or None,
            "run": place,
        }
        swept, paid = arm.axes | arm.picked, arm.costs | run.costs
        row |= {column[axis]: swept.get(axis) for axis in axes}
        row |= {metric: run.metrics.get(metric, float("nan")) for metric in metrics}
        rows.append(row | {priced[cost]: paid.get(cost, float("nan")) for cost in costs})
    return rows


def curves(sweeps: Sequence[str], metric: str, x: X, root: Path | str | None = None) -> list[Row]:
    """A row a point of the runs' curves of one metric."""
    from lab.comparison.read.curves import X as KNOWN
    from lab.comparison.read.curves import run_curve

    if x not in get_args(KNOWN):
        raise RequestError(f"x='{x}': expected one of {', '.join(get_args(KNOWN))}{suggestion(x, get_args(KNOWN))}")
    rows = []
    for sweep, arm, run in _runs(sweeps, root):
        if run.folder is not None:
            curve = run_curve(run, metric, x)
            label = _label(sweep, arm, run)
            rows += [label | {x: at, metric: value} for at, value in zip(curve.x, curve.y, strict=True)]
    if not rows:
        raise RequestError(f"no run of {', '.join(sweeps)} has a curve of '{metric}'{_instead(sweeps, metric, root)}")
    return rows


def _instead(sweeps: Sequence[str], metric: str, root: Path | str | None) -> str:
    """Where a metric without a curve is to be found, or which has one of nearly its name."""
    runs = [run for _, _, run in _runs(sweeps, root)]
    if any(metric in run.metrics for run in runs):
        return ": it is measured at the end alone, so it is in lab.results"
    recorded = {name for run in runs if run.folder is not None for name in _recorded(run.folder.path)}
    return suggestion(metric, sorted(recorded))


def _recorded(folder: Path) -> set[str]:
    """What the first lines of a run's metrics.jsonl measure."""
    found: set[str] = set()
    with suppress(OSError, ValueError), (folder / "metrics.jsonl").open(encoding="utf-8") as file:
        for line in islice(file, _LINES):
            point = json.loads(line)
            found |= {name for name in point if "/" in name} if isinstance(point, dict) else set()
    return found


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

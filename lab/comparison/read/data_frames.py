"""Sweeps as data frames for notebooks: a row for each run, or a row for each point of its curves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from components.registry import suggestion
from lab.comparison.compare import ComparisonRow, compare
from lab.comparison.read.collect import collect
from lab.comparison.read.curves import X, run_curve
from lab.comparison.read.results import ArmResults, RunResult, SweepResults
from lab.records import escape_text, recorded_metrics
from lab.refusals import RequestError

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

TableRow = dict[str, object]

_LINES = 1_000  # the first lines of a metrics.jsonl name every metric that has a curve
_LABELS = ("sweep", "arm", "is_baseline", "seed", "status", "reason", "identity", "run", "not_comparable", "mixed")


def data_frame(rows: list[TableRow]) -> DataFrame | list[TableRow]:
    """Rows as a pandas DataFrame; unchanged if pandas isn't installed."""
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def results(sweeps: Sequence[str], root: Path | str | None = None) -> list[TableRow]:
    """A row for each run, all with the same keys. Missing metrics and costs are NaN; other missing values are None.

    An axis or a cost that has the name of another column is called `axis:…` or `cost:…`. `verdict:…` is the verdict on
    the run's arm in a metric of its sweep.
    """
    runs: list[tuple[SweepResults, ArmResults, RunResult]] = []
    remarks: dict[tuple[str, str], TableRow] = {}
    arm_verdicts: dict[tuple[str, str], TableRow] = {}
    for name in _named(sweeps):
        comparison = compare(collect(_root(root), name))
        for compared in comparison.rows:
            label = comparison.sweep.name, compared.arm.name
            remarks[label] = _remarks(compared)
            arm_verdicts[label] = {f"verdict:{metric}": cell.verdict for metric, cell in compared.cells.items()}
        runs += [(comparison.sweep, arm, run) for arm in comparison.sweep.arms.values() for run in arm.runs.values()]
    judged = _union(arm_verdicts.values())
    axes = _union(arm.settings for _, arm, _ in runs)
    metrics = _union(run.metrics for _, _, run in runs)
    costs = _union({**arm.costs, **run.costs} for _, arm, run in runs)
    reserved = {*_LABELS, *metrics}
    axis_columns = {axis: f"axis:{axis}" if axis in reserved or axis in costs else axis for axis in axes}
    cost_columns = {cost: f"cost:{cost}" if cost in reserved else cost for cost in costs}
    rows = []
    for sweep, arm, run in runs:
        row = _labels(sweep, arm, run) | {
            "status": run.status,
            "reason": run.reason,
            "identity": run.identity or None,
            "run": escape_text(run.folder.path.relative_to(_root(root)).as_posix()) if run.folder else None,
            **remarks[sweep.name, arm.name],
        }
        row |= {column: arm.settings.get(axis) for axis, column in axis_columns.items()}
        row |= {metric: run.metrics.get(metric, float("nan")) for metric in metrics}
        values = {**arm.costs, **run.costs}
        row |= {column: values.get(cost, float("nan")) for cost, column in cost_columns.items()}
        row |= {column: arm_verdicts[sweep.name, arm.name].get(column) for column in judged}
        rows.append(row)
    return rows


def verdicts(sweeps: Sequence[str], root: Path | str | None = None) -> list[TableRow]:
    """A row for each arm and metric of the sweeps. Unknown numbers are NaN; the verdict of a baseline is None.

    Raises:
        RequestError: no sweep is named, or one has no runs.
    """
    rows = []
    for name in _named(sweeps):
        sweep = collect(_root(root), name)
        for row in compare(sweep).rows:
            for metric, cell in row.cells.items():
                difference = cell.difference
                interval = difference.interval if difference else None
                numbers = {
                    "n": cell.sample.n,
                    "mean": cell.sample.mean,
                    "sd": cell.sample.sd,
                    "pairs": difference.n if difference else None,
                    "difference": difference.mean if difference else None,
                    "low": interval.low if interval else None,
                    "high": interval.high if interval else None,
                    "difference_sd": difference.sd if difference else None,
                    "p_holm": cell.p_holm,
                }
                labels = {"sweep": sweep.name, "arm": row.arm.name, "is_baseline": row.is_baseline, "metric": metric}
                known = {key: float("nan") if number is None else number for key, number in numbers.items()}
                rows.append({**labels, **known, "verdict": cell.verdict, "remarks": "; ".join(cell.remarks)})
    return rows


def curves(sweeps: Sequence[str], metric: str, x: X, root: Path | str | None = None) -> list[TableRow]:
    """A row for each point of the runs' curves of one metric.

    Raises:
        RequestError: the axis `x` is unknown, no sweep is named, or no run has a curve of the metric.
    """
    if x not in get_args(X):
        raise RequestError(f"x='{x}': expected one of {', '.join(get_args(X))}{suggestion(x, get_args(X))}")
    rows = []
    for sweep, arm, run in _runs(sweeps, root):
        curve, labels = run_curve(run, metric, x), _labels(sweep, arm, run)
        rows += [labels | {x: coordinate, metric: value} for coordinate, value in zip(curve.x, curve.y, strict=True)]
    if not rows:
        raise RequestError(f"no run of {', '.join(sweeps)} has a curve of '{metric}'{_hint(sweeps, metric, root)}")
    return rows


def _hint(sweeps: Sequence[str], metric: str, root: Path | str | None) -> str:
    """Where to find a metric that has no curve, or the metric with a similar name that has one."""
    runs = [run for _, _, run in _runs(sweeps, root)]
    if any(metric in run.metrics for run in runs):
        return ": it is measured only at the end; lab.results has it"
    folders = [run.folder for run in runs if run.folder is not None]
    recorded = {name for folder in folders for name in recorded_metrics(folder.metrics_path, _LINES)}
    return suggestion(metric, sorted(recorded))


def _runs(sweeps: Sequence[str], root: Path | str | None) -> Iterator[tuple[SweepResults, ArmResults, RunResult]]:
    for name in _named(sweeps):
        sweep = collect(_root(root), name)
        for arm in sweep.arms.values():
            for run in arm.runs.values():
                yield sweep, arm, run


def _remarks(row: ComparisonRow) -> TableRow:
    """Why an arm can't be compared with the baseline, by metric, and in what its own runs differ; None if nothing."""
    unlike = [
        f"{metric}: {'; '.join(r.text for r in cell.unlike)}" for metric, cell in row.cells.items() if cell.unlike
    ]
    mixed = [mixture.text for mixture in row.mixtures]
    return {"not_comparable": " | ".join(unlike) or None, "mixed": " | ".join(mixed) or None}


def _named(sweeps: Sequence[str]) -> Sequence[str]:
    if not sweeps:
        raise RequestError("name at least one sweep")
    return sweeps


def _root(root: Path | str | None) -> Path:
    return Path(os.environ.get("LAB_ROOT", "runs") if root is None else root)


def _labels(sweep: SweepResults, arm: ArmResults, run: RunResult) -> TableRow:
    return {"sweep": sweep.name, "arm": arm.name, "is_baseline": arm.name == sweep.baseline, "seed": run.seed}


def _union(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """The keys of all mappings, in order of first appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))

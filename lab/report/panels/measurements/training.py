"""Training curves with bands over seeds, and their differences from the baseline's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from lab.comparison.metrics import title
from lab.comparison.read.curves import MetricCurve, X, averaged_runs, band, difference, run_curves
from lab.report.charts import Line, chart
from lab.report.parts import Panel, figure, legend, mean_line, tabs
from lab.report.report_data import ReportData, ReportedArm
from lab.report.scales import scale, short_count, short_duration
from lab.report.thinning import POINTS_PER_LINE
from lab.report.wording import join_names
from lab.units import percent

_TITLE = "Training curves"
_ALWAYS = ("val/loss", "train/loss")
_DIAGNOSTICS = ("train/grad_norm", "train/lr")  # of the training itself: their differences from the baseline say little
_START = 0.05  # the first fraction of training, whose steep fall the vertical axis need not show


class _Axis(NamedTuple):
    """A horizontal axis of the charts."""

    x: X
    title: str
    tab: str


_AXES = (
    _Axis("tokens", "tokens trained on", "over tokens"),
    _Axis("flops", "training FLOPs", "over FLOPs"),
    _Axis("seconds", "time of training", "over time"),
)

_ArmCurves = Mapping[int, Mapping[tuple[str, X], MetricCurve]]
"""Seed → (metric, axis) → curve."""


class _Curves(NamedTuple):
    """One arm's curves of one metric, by seed: those that its mean averages, and others that are drawn separately."""

    arm: ReportedArm
    averaged: Mapping[int, MetricCurve]
    others: Mapping[int, MetricCurve]


def panel(data: ReportData) -> Panel:
    lead = (
        f"The mean over an arm's seeds with its {percent(data.comparison.level)} t band at the points that the seeds "
        "share. Below it, the difference from the baseline, paired by seed."
    )
    # The sweep's metrics, and what every run records.
    metrics = list(dict.fromkeys([*data.comparison.sweep.metrics, *_ALWAYS, *_DIAGNOSTICS]))
    axes = [axis.x for axis in _AXES]
    curves = {arm.name: {run.seed: run_curves(run.result, metrics, axes) for run in arm.runs} for arm in data.charted}
    views = [(title(metric), view) for metric in metrics if (view := _view(data, metric, curves)) is not None]
    if not views:
        return Panel(
            "curves", _TITLE, lead, missing=("No run has recorded a curve yet.", f"lab submit {data.sweep} --wait")
        )
    single = [arm.name for arm in data.charted if len(averaged_runs(arm.row.arm)) == 1]
    notes = [*data.chart_notes, *([f"One seed, so no band: {join_names(single)}."] if single else [])]
    notes.append(
        f"Nothing is smoothed: a line of more than {POINTS_PER_LINE} points shows the lowest and the highest value in "
        f"each of {POINTS_PER_LINE // 2} equal slices, and a band its widest extent there. The first twentieth of "
        "training may lie outside the vertical axis. Means and bands are over finished runs and, until two have "
        "finished, over unfinished runs as well. Other runs, such as diverged ones, are in no mean; each is a dashed "
        "line. Over FLOPs and time, curves are interpolated linearly between neighbouring points."
    )
    return Panel("curves", _TITLE, lead, legend(data.charted) + tabs(views), notes=tuple(notes))


def _view(data: ReportData, metric: str, curves: Mapping[str, _ArmCurves]) -> Markup | None:
    """A metric's charts over all axes; None if no run has two points."""
    views = []
    for axis in _AXES:
        arms = [_arm_curves(arm, curves[arm.name], (metric, axis.x)) for arm in data.charted]
        charts = _charts(data, metric, axis, arms)
        if charts is not None:
            views.append((axis.tab, charts))
    return tabs(views) if views else None


def _arm_curves(arm: ReportedArm, curves: _ArmCurves, key: tuple[str, X]) -> _Curves:
    with_points = {seed: run_curves[key] for seed, run_curves in curves.items() if len(run_curves[key])}
    averaged = {seed: curve for seed, curve in with_points.items() if seed in averaged_runs(arm.row.arm)}
    return _Curves(arm, averaged, {seed: curve for seed, curve in with_points.items() if seed not in averaged})


def _charts(data: ReportData, metric: str, axis: _Axis, arms: Sequence[_Curves]) -> Markup | None:
    """The chart of the curves and the chart of their differences; None if no line has two points."""
    level = data.comparison.level
    lines = [line for arm in arms for line in _lines(arm, level)]
    if not any(len(line.x) > 1 for line in lines):
        return None
    body = figure(_chart(lines, axis, title(metric)))
    baseline = next((arm for arm in arms if arm.arm.is_baseline), None)
    if baseline is None or not baseline.averaged or metric in _DIAGNOSTICS:
        return body
    unlike = data.comparison.unlike.get(metric, {})
    compared = [arm for arm in arms if arm is not baseline and arm.arm.name not in unlike]
    differences = [mean_line(arm.arm, difference(arm.averaged, baseline.averaged, level)) for arm in compared]
    differences = [line for line in differences if line.x]
    if not differences:
        return body
    name = f"{title(metric)}, difference from {baseline.arm.name}"
    return body + figure(_chart(differences, axis, name, zero=True, height=210))


def _lines(curves: _Curves, level: float) -> Iterator[Line]:
    arm, mean = curves.arm, band(curves.averaged, level)
    if mean.x:
        yield mean_line(arm, mean)
    for run in arm.runs:
        if run.seed in curves.others:
            curve = curves.others[run.seed]
            yield Line(f"{arm.name}, seed {run.seed}", arm.slot or 0, curve.x, curve.y, detail=run.status, dashed=True)


def _chart(lines: Sequence[Line], axis: _Axis, name: str, *, zero: bool = False, height: int = 300) -> Markup:
    ends = [value for line in lines for value in line.x]
    label = short_duration if axis.x == "seconds" else short_count
    return chart(
        scale([*ends, 0.0], pad=0.0, label=label),
        scale(_shown(lines, max(ends)), zero=zero),
        x_title=axis.title,
        y_title=name,
        lines=lines,
        zero=zero,
        height=height,
    )


def _shown(lines: Sequence[Line], end: float) -> list[float]:
    """The values that the vertical axis shows: the means after the start, and the parts of the bands near them."""
    late = [
        value
        for line in lines
        for x, value in zip(line.x, line.y, strict=True)
        if x >= _START * end and math.isfinite(value)
    ]
    late = late or [value for line in lines for value in line.y if math.isfinite(value)]
    if not late:
        return []
    low, high = min(late), max(late)
    room = 0.5 * (high - low)
    edges = [
        edge
        for line in lines
        for ends in (line.low, line.high)
        for x, edge in zip(line.x, ends or (), strict=False)
        if x >= _START * end and low - room <= edge <= high + room
    ]
    return [low, high, *([min(edges), max(edges)] if edges else [])]

"""Curves that evaluators measured: loss by position and context, recall by distance, and any others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from markupsafe import Markup

from lab.comparison.read.curves import MetricCurve, band, difference
from lab.records import EvaluationCurve
from lab.report.charts import Line, chart
from lab.report.parts import Panel, figure, legend, mean_line, tabs
from lab.report.report_data import ReportData, ReportedArm
from lab.report.scales import scale
from lab.report.wording import join_names
from lab.units import percent

MOST_CURVES = 24

_TITLES = {
    "loss_by_position": "by position in the window",
    "loss_by_context": "by context",
    "loss_by_window": "by window at inference",
    "accuracy_by_distance": "recall by distance",
}
_LOSSES = ("loss_by_position", "loss_by_context", "loss_by_window")
_RECALL = ("accuracy_by_distance",)
_EVENTS = ("loss_spikes", "grad_norm_spikes")  # events of a single run, which can't be averaged

Key = tuple[str, str]
"""The names of an evaluation and of one of its curves."""


class _Measured(NamedTuple):
    """One run's curve, and how many tokens back the layers of its model together can see."""

    curve: EvaluationCurve
    reach: float | None


_Seeds = Mapping[int, _Measured]
_Curves = Mapping[Key, Mapping[str, _Seeds]]
"""Key → arm → seed → curve."""


def panels(data: ReportData) -> list[Panel]:
    curves = _curves(data)
    losses = {key: arms for key, arms in curves.items() if key[1] in _LOSSES}
    recall = {key: arms for key, arms in curves.items() if key[1] in _RECALL}
    rest = {key: arms for key, arms in curves.items() if key[1] not in (*_LOSSES, *_RECALL, *_EVENTS)}
    result = [
        _panel(
            data,
            losses,
            "positions",
            "Loss by position and context",
            "How much the text before a token helps each arm.",
            ("No run has been evaluated by position and context yet.", f"lab eval {data.sweep} context"),
        ),
        _panel(
            data,
            recall,
            "recall",
            "Recall by distance",
            "How far back the arms can retrieve information.",
            ("No run has been evaluated on recall yet.", f"lab eval {data.sweep} recall"),
        ),
    ]
    if rest:
        lead = "All other curves of evaluators."
        result.append(_panel(data, rest, "evaluations", "Other evaluations", lead, ("", "")))
    return result


def _curves(data: ReportData) -> _Curves:
    """The curves of finished runs, for the arms that charts show."""
    curves: dict[Key, dict[str, dict[int, _Measured]]] = {}
    for arm in data.charted:
        for run in arm.runs:
            for name, evaluation in run.evaluations.items() if run.finished else ():
                for key, curve in evaluation.curves.items():
                    seeds = curves.setdefault((name, key), {}).setdefault(arm.name, {})
                    seeds[run.seed] = _Measured(curve, evaluation.reach)
    return curves


def _panel(data: ReportData, curves: _Curves, anchor: str, title: str, lead: str, missing: tuple[str, str]) -> Panel:
    if not curves:
        return Panel(anchor, title, lead, missing=missing)
    shown_curves = list(curves.items())[:MOST_CURVES]
    lines = {key: _lines(data, arms) for key, arms in shown_curves}
    views = [(_title(key, curves), _charts(data, arms, lines[key])) for key, arms in shown_curves]
    notes = [
        "Seeds differ more than arms do, so the means have no bands: the differences, which pair the seeds, have them."
    ]
    if any(line.mark is not None for view_lines in lines.values() for line in view_lines):
        notes.append("A dotted line in an arm's colour marks how far back all its layers together can see.")
    notes += data.chart_notes
    measured = {arm for arms in curves.values() for arm in arms}
    unmeasured = [arm.name for arm in data.charted if arm.name not in measured]
    if unmeasured:
        notes.append(f"Not measured yet: {join_names(unmeasured)}.")
    notes += _missing_seeds(data, curves)
    if len(curves) > len(shown_curves):
        notes.append(f"{len(curves) - len(shown_curves)} more curves are in the evaluations of the runs.")
    lead += (
        " Means over an arm's seeds, and below them the difference from the baseline, paired by seed, with its "
        f"{percent(data.comparison.level)} t band."
    )
    arms = [arm for arm in data.charted if arm.name in measured]
    return Panel(anchor, title, lead, legend(arms) + tabs(views), notes=tuple(notes))


def _missing_seeds(data: ReportData, curves: _Curves) -> list[str]:
    """Notes on the seeds of the charted arms that no mean includes, with the reasons."""
    notes = []
    for arm in data.charted:
        seeds = {seed for arms in curves.values() for seed in arms.get(arm.name, ())}
        missing = [
            f"{run.seed} ({'not measured' if run.finished else run.status})"
            for run in arm.runs
            if run.seed not in seeds
        ]
        if seeds and missing:
            notes.append(f"{arm.name} without seed {join_names(missing)}.")
    return notes


def _title(key: Key, curves: _Curves) -> str:
    """A curve's title; the name of the evaluation is added if several evaluations have this curve."""
    evaluation, curve = key
    name = _TITLES.get(curve, curve.replace("_", " "))
    is_unique = sum(other[1] == curve for other in curves) == 1
    return name if is_unique and curve in _TITLES else f"{evaluation}: {name}"


def _lines(data: ReportData, arms: Mapping[str, _Seeds]) -> list[Line]:
    """Each arm's mean, without a band."""
    lines = [_line(arm, arms[arm.name], data.comparison.level) for arm in data.charted if arm.name in arms]
    return [line for line in lines if line.x]


def _line(arm: ReportedArm, seeds: _Seeds, level: float) -> Line:
    mean = band(_metric_curves(seeds), level)
    reach = next(iter(seeds.values())).reach
    line = mean_line(arm, mean, reach if reach is not None and mean.x and reach < max(mean.x) else None)
    return replace(line, low=None, high=None)


def _metric_curves(seeds: _Seeds) -> dict[int, MetricCurve]:
    """Seed → curve."""
    return {
        seed: MetricCurve(tuple(x for x, _ in curve.points), tuple(y for _, y in curve.points))
        for seed, (curve, _) in sorted(seeds.items())
    }


def _charts(data: ReportData, arms: Mapping[str, _Seeds], lines: Sequence[Line]) -> Markup:
    """The chart of the means and, where another arm shares a seed with the baseline, that of the differences."""
    first = next(iter(next(iter(arms.values())).values())).curve
    means = figure(_chart(lines, first.x, first.y))
    baseline = data.baseline
    if baseline is None or baseline.name not in arms:
        return means
    reference = _metric_curves(arms[baseline.name])
    differences = [
        mean_line(arm, difference(_metric_curves(arms[arm.name]), reference, data.comparison.level))
        for arm in data.charted
        if arm.name in arms and arm is not baseline
    ]
    differences = [line for line in differences if line.x]
    if not differences:
        return means
    return means + figure(
        _chart(differences, first.x, f"{first.y}, difference from {baseline.name}", zero=True, height=210)
    )


def _chart(lines: Sequence[Line], x_title: str, y_title: str, *, zero: bool = False, height: int = 300) -> Markup:
    """A chart whose vertical axis is scaled to the means; of a band it shows the part near them."""
    xs = sorted({x for line in lines for x in line.x})
    log = bool(xs) and xs[0] > 0 and xs[-1] >= 16 * xs[0]
    few = len(xs) <= 9 and all(value == int(value) for value in xs)
    x = scale(xs, log=log, pad=0.02, named=xs if few else ())
    values = [value for line in lines for value in line.y]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.5 * (high - low)
    edges = [edge for line in lines for ends in (line.low, line.high) for edge in ends or ()]
    values += [min(max(edge, low - room), high + room) for edge in edges]
    return chart(x, scale(values, zero=zero), x_title=x_title, y_title=y_title, lines=lines, zero=zero, height=height)

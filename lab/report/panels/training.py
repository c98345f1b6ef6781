"""The curves of training with their bands over seeds, and their difference from the baseline's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from lab.comparison.metrics import title
from lab.comparison.read.curves import Band, Curve, X, band, counted, difference, run_curves
from lab.comparison.tables.footnotes import percent
from lab.report import scales
from lab.report.charts import Line, chart
from lab.report.facts import ArmFacts, Facts
from lab.report.parts import Panel, figure, legend, mean_line, tabs
from lab.report.thinning import MOST_POINTS
from lab.report.wording import listed

"""Points of a line up to which each has a dot."""
_TITLE = "Training curves"
_ALWAYS = ("val/loss", "train/loss")
_START = 0.05  # share of a training whose steep fall the vertical axis need not hold


@dataclass(frozen=True)
class _Along:
    """What curves are drawn over."""

    x: X
    title: str
    tab: str


_ALONG = (
    _Along("tokens", "tokens trained on", "over tokens"),
    _Along("flops", "training FLOPs", "over FLOPs"),
    _Along("seconds", "time of training", "over time"),
)


_Read = Mapping[int, Mapping[tuple[str, X], Curve]]
"""An arm's curves: seed → metric and axis → curve."""


@dataclass(frozen=True)
class _Arm:
    """One arm's curves by seed: those that its band is of, and others that stand for themselves."""

    arm: ArmFacts
    counted: Mapping[int, Curve]
    others: Mapping[int, Curve] = field(default_factory=dict)


def panel(facts: Facts) -> Panel:
    level = facts.comparison.level
    lead = (
        f"The mean over an arm's seeds with its {percent(level)} t band, at the points that the seeds share, and below "
        "it the difference from the baseline, paired by seed."
    )
    names = _metrics(facts)
    axes = [along.x for along in _ALONG]
    read = {arm.name: {run.run.seed: run_curves(run.run, names, axes) for run in arm.runs} for arm in facts.drawn}
    views = [(title(name), view) for name in names if (view := _of_metric(facts, name, read)) is not None]
    if not views:
        return Panel(
            "curves",
            _TITLE,
            lead,
            missing=("No run has written a curve yet.", f"lab submit {facts.sweep} --wait"),
        )
    notes = [facts.left_undrawn] if facts.left_undrawn else []
    lonely = [arm.name for arm in facts.drawn if len(counted(arm.row.arm)) == 1]
    if lonely:
        notes.append(f"One seed, so no band: {listed(lonely)}.")
    notes.append(
        f"Lines of more than {MOST_POINTS} points are drawn by the lowest and the highest value in each of "
        f"{MOST_POINTS // 2} equal slices, bands at their widest there: nothing is smoothed. "
        "The first twentieth of a training may lie outside of the vertical axis. A band is over the finished runs, "
        "before there are two over those under way as well; other runs, such as diverged ones, are dashed lines of "
        "their own, in no mean. Over FLOPs and time, seeds are joined on straight lines between neighbouring points."
    )
    return Panel("curves", _TITLE, lead, legend(facts.drawn) + tabs(views), notes=tuple(notes))


def _metrics(facts: Facts) -> list[str]:
    """The metrics whose curves are looked for: the sweep's, and the losses that every training has."""
    return list(dict.fromkeys([*facts.comparison.sweep.metrics, *_ALWAYS]))


def _of_metric(facts: Facts, metric: str, read: Mapping[str, _Read]) -> Markup | None:
    views = []
    for along in _ALONG:
        arms = [
            _arm(arm, {seed: curves[metric, along.x] for seed, curves in read[arm.name].items()}) for arm in facts.drawn
        ]
        drawn = _charts(facts, metric, along, arms)
        if drawn is not None:
            views.append((along.tab, drawn))
    return tabs(views) if views else None


def _arm(arm: ArmFacts, curves: Mapping[int, Curve]) -> _Arm:
    there = {seed: curve for seed, curve in curves.items() if len(curve)}
    mean = {seed: curve for seed, curve in there.items() if seed in counted(arm.row.arm)}
    return _Arm(arm, mean, {seed: curve for seed, curve in there.items() if seed not in mean})


def _charts(facts: Facts, metric: str, along: _Along, arms: Sequence[_Arm]) -> Markup | None:
    """The curves and their differences; None where no line has two points."""
    level = facts.comparison.level
    lines = [line for arm in arms for line in _lines(arm, band(arm.counted, level) if arm.counted else None)]
    if not any(len(line.x) > 1 for line in lines):
        return None
    drawn = figure(_chart(lines, along, title(metric)))
    held = next((arm for arm in arms if arm.arm.row.is_baseline), None)
    if held is None or not held.counted:
        return drawn
    apart = []
    for arm in arms:
        if arm is held or not arm.counted:
            continue
        found = difference(arm.counted, held.counted, level)
        if found.x:
            apart.append(mean_line(arm.arm, found))
    if not apart:
        return drawn
    name = f"{title(metric)}, difference from {held.arm.name}"
    return drawn + figure(_chart(apart, along, name, zero=True, height=210))


def _lines(arm: _Arm, found: Band | None) -> Iterator[Line]:
    if found is not None and found.x:
        yield mean_line(arm.arm, found)
    for seed, curve in arm.others.items():
        run = next(run for run in arm.arm.runs if run.run.seed == seed)
        yield Line(
            f"{arm.arm.name}, seed {seed}", arm.arm.slot or 0, curve.x, curve.y, told=run.run.status, dashed=True
        )


def _chart(lines: Sequence[Line], along: _Along, name: str, *, zero: bool = False, height: int = 300) -> Markup:
    ends = [value for line in lines for value in line.x]
    label = scales.seconds if along.x == "seconds" else scales.counted
    x = scales.scale([*ends, 0.0], pad=0.0, label=label)
    return chart(
        x,
        scales.scale(_shown(lines, max(ends)), zero=zero),
        x_title=along.title,
        y_title=name,
        lines=lines,
        zero=zero,
        height=height,
    )


def _shown(lines: Sequence[Line], end: float) -> list[float]:
    """The values that the vertical axis holds: means after the start, and of the bands what doesn't flatten them."""
    late = [
        value
        for line in lines
        for place, value in zip(line.x, line.y, strict=True)
        if place >= _START * end and math.isfinite(value)
    ]
    late = late or [value for line in lines for value in line.y if math.isfinite(value)]
    if not late:
        return []
    low, high = min(late), max(late)
    room = 0.5 * (high - low)
    edges = []
    for line in lines:
        for ends in (line.low, line.high):
            known = zip(line.x, ends or (), strict=False)
            edges += [v for place, v in known if place >= _START * end and low - room <= v <= high + room]
    return [low, high, *([min(edges), max(edges)] if edges else [])]

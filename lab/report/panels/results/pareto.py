"""Quality against cost: the first metric against compute, cache, speed and memory, with the Pareto front."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from lab.comparison.metrics import better, title
from lab.comparison.statistics.paired import t_interval
from lab.report.charts import Bar, Dot, Label, chart
from lab.report.panels.results.verdicts import decimals
from lab.report.parts import Panel, breakable, concat, figure, legend
from lab.report.report_data import ReportData, ReportedArm, ReportedRun
from lab.report.scales import Scale, scale, short_count
from lab.report.wording import fixed, join_names, shorten_distinctly
from lab.units import count

_TITLE = "What it costs"
MOST_ARMS_IN_NOTE = 12
_LONGEST_LABEL = 30  # characters
_LETTER_WIDTH, _LABEL_HEIGHT = 0.017, 0.075  # as fractions of the chart's width and height

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


@dataclass(frozen=True)
class Cost:
    """A cost that the metric is drawn against.

    Attributes:
        value: returns a run's cost; None if it isn't known.
        more_is_better: whether a larger value is better, as for a speed.
        measured: whether runs measure it, so that it varies from run to run.
    """

    title: str
    value: Callable[[ReportedArm, ReportedRun], float | None]
    more_is_better: bool = False
    measured: bool = False


def _computed(name: str) -> Callable[[ReportedArm, ReportedRun], float | None]:
    return lambda arm, run: arm.costs.get(name)


def _measured(name: str) -> Callable[[ReportedArm, ReportedRun], float | None]:
    return lambda arm, run: run.result.costs.get(name)


_TOTAL_FLOPS = Cost("training FLOPs", _computed("total_flops"))
_FLOPS_PER_TOKEN = Cost("training FLOPs per token", _computed("flops_per_token"))
_COSTS = (
    Cost("KV cache, bytes per token", _computed("kv_bytes_per_token")),
    Cost("training speed, tokens/s", _measured("tokens_per_second"), more_is_better=True, measured=True),
    Cost("peak memory of training, bytes", _measured("peak_memory_bytes"), measured=True),
)


@dataclass(frozen=True)
class ArmPoint:
    """An arm in a chart.

    Attributes:
        cost: the mean over the seeds whose cost is known.
        value: the mean of the metric, as in the verdicts.
        seeds: (run, cost, value) for each seed whose cost is known.
    """

    arm: ReportedArm
    cost: float
    value: float
    seeds: tuple[tuple[ReportedRun, float, float], ...]


def panel(data: ReportData) -> Panel:
    metric = title(data.metric)
    lead = (
        f"{metric[:1].upper()}{metric[1:]} against cost. Large dots are arms, small dots their seeds. "
        "Bars are the intervals of an arm's means over its seeds. Where the cost is computed, the dashed line is the "
        "Pareto front: it joins the arms whose means no other arm beats on both. A cost that runs measure depends on "
        "the machine and what else it does, so it has bars and no front."
    )
    plots, same, unknown = [], [], []
    # Total training FLOPs if the plan has them: arms may differ in tokens, or learn from a teacher.
    with_total = all("total_flops" in arm.costs for arm in data.arms)
    for cost in (_TOTAL_FLOPS if with_total else _FLOPS_PER_TOKEN, *_COSTS):
        points = _points(data, cost)
        if len({point.cost for point in points}) < 2:
            same += [cost.title] if points else []
            continue
        plots.append(_plot(data, cost, points))
        unknown += _unknown(data, cost, points)
    if not plots:
        if same and sum(arm.row.cells[data.metric].sample.n > 0 for arm in data.arms) > 1:
            return Panel(
                "pareto", _TITLE, lead, Markup("<p>Every arm costs the same: {}.</p>").format(join_names(same))
            )
        missing = ("This panel needs finished runs of two arms.", f"lab submit {data.sweep} --wait")
        return Panel("pareto", _TITLE, lead, missing=missing)
    unlike = [arm.name for arm in data.arms if arm.row.cells[data.metric].unlike]
    if unlike:
        unknown.append(
            f"Not drawn, because their {metric} can't be compared with the baseline's: {join_names(unlike)}."
        )
    notes = [*data.chart_notes, *([f"The same for every arm: {join_names(same)}."] if same else []), *unknown]
    body = legend(data.charted) + Markup('<div class="pair">{}</div>').format(concat(plots))
    return Panel("pareto", _TITLE, lead, body, notes=tuple(notes))


def front(points: list[ArmPoint], more_is_better: bool, direction: str | None) -> list[ArmPoint]:
    """The Pareto front, the cheapest arm first: no other arm is better in one quantity and at least equal in the other.

    It is empty if the metric's better direction isn't known.
    """
    if direction is None:
        return []

    def key(point: ArmPoint) -> tuple[float, float]:
        return (
            -point.cost if more_is_better else point.cost,
            -point.value if direction == "higher" else point.value,
        )

    unbeaten: list[ArmPoint] = []
    for point in sorted(points, key=key):
        if not unbeaten or key(point)[1] < key(unbeaten[-1])[1]:
            unbeaten.append(point)
    return unbeaten


def _points(data: ReportData, cost: Cost) -> list[ArmPoint]:
    points = []
    for arm in data.arms:
        if arm.row.cells[data.metric].unlike:
            continue
        values = arm.row.arm.values(data.metric)
        seeds = tuple(
            (run, spent, values[run.seed])
            for run in arm.runs
            if math.isfinite(values.get(run.seed, math.nan))
            and (spent := cost.value(arm, run)) is not None
            and math.isfinite(spent)
        )
        mean = arm.row.cells[data.metric].sample.mean
        if seeds and mean is not None:
            points.append(ArmPoint(arm, math.fsum(spent for _, spent, _ in seeds) / len(seeds), mean, seeds))
    return points


def _unknown(data: ReportData, cost: Cost, points: list[ArmPoint]) -> list[str]:
    """A note on the arms and seeds that have a result, but are missing from a chart because their cost isn't known."""
    seeds_by_arm = {point.arm.name: len(point.seeds) for point in points}
    names = []
    for arm in data.arms:
        n = 0 if arm.row.cells[data.metric].unlike else arm.row.cells[data.metric].sample.n
        if seeds_by_arm.get(arm.name, 0) < n:
            names.append(f"{arm.name} ({n - seeds_by_arm[arm.name]} of {n})" if arm.name in seeds_by_arm else arm.name)
    if not names:
        return []
    more = len(names) - MOST_ARMS_IN_NOTE
    arms = f"{', '.join(names[:MOST_ARMS_IN_NOTE])} and {more} more arms" if more > 0 else join_names(names)
    return [f"Not drawn, because their {cost.title.partition(',')[0]} is not known: {arms}."]


def _plot(data: ReportData, cost: Cost, points: list[ArmPoint]) -> Markup:
    spent = [spent for point in points for _, spent, _ in point.seeds]
    log = min(spent) > 0 and max(spent) / min(spent) >= 8
    bars = [bar for point in points if point.arm.slot is not None for bar in _bars(point, data.comparison.level)]
    ends = [end for bar in bars for end in (bar.start, bar.end)]
    x = scale([*spent, *(a for a, _ in ends if a > 0 or not log)], log=log, pad=0.07, label=short_count)
    y = scale([*(value for point in points for _, _, value in point.seeds), *(b for _, b in ends)], pad=0.07)
    unbeaten = [] if cost.measured else front(points, cost.more_is_better, better(data.metric))
    named = [point for point in points if point.arm.slot is not None] if cost.measured else unbeaten
    n = decimals(data, data.metric)
    dots = [dot for point in points for dot in _dots(point, point.arm.row.cells[data.metric].sample.n, n)]
    charted = [(x.at(point.cost), y.at(point.value)) for point in points if point.arm.slot is not None]
    return figure(
        chart(
            x,
            y,
            x_title=f"{cost.title} ({'more' if cost.more_is_better else 'less'} is better)",
            y_title=title(data.metric),
            dots=dots,
            labels=_labels(named, charted, x, y),
            bars=bars,
            front=[(point.cost, point.value) for point in unbeaten],
            height=250,
        )
    )


def _bars(point: ArmPoint, level: float) -> list[Bar]:
    """The t intervals of an arm's mean value and, where the cost varies over the seeds, of its mean cost."""
    spent, values = [cost for _, cost, _ in point.seeds], [value for _, _, value in point.seeds]
    bars = []
    if ends := _interval(spent, level):
        bars.append(Bar((ends[0], point.value), (ends[1], point.value), point.arm.slot))
    if ends := _interval(values, level):
        bars.append(Bar((point.cost, ends[0]), (point.cost, ends[1]), point.arm.slot))
    return bars


def _interval(values: list[float], level: float) -> tuple[float, float] | None:
    """The t interval of the mean; None with fewer than two values, and where all are the same."""
    n = len(values)
    if n < 2 or max(values) == min(values):
        return None
    interval = t_interval(math.fsum(values) / n, statistics.stdev(values), n, level)
    return interval.low, interval.high


def _dots(point: ArmPoint, seeds: int, n: int) -> list[Dot]:
    """A dot for the arm and, if charts show the arm, a dot for each of its seeds."""
    arm, charted = point.arm, point.arm.slot is not None
    dots = [
        Dot(
            spent,
            value,
            arm.slot,
            f"#{run.anchor}",
            f"{arm.name}, seed {run.seed}: {fixed(value, n)} at {count(spent)}",
            2.6,
            True,
        )
        for run, spent, value in (point.seeds if charted else ())
    ]
    detail = f"{arm.name}, mean of {seeds}: {fixed(point.value, n)} at {count(point.cost)}"
    return [*dots, Dot(point.cost, point.value, arm.slot, f"#{arm.anchor}", detail, 5.5 if charted else 3.0)]


def _labels(named: list[ArmPoint], dots: list[tuple[float, float]], x: Scale, y: Scale) -> list[Label]:
    """Names of arms, each beside its dot, if it overlaps no other dot or name."""
    occupied: list[Box] = [(a - 0.02, b - 0.03, a + 0.02, b + 0.03) for a, b in dots]
    labels: list[Label] = []
    names = shorten_distinctly((point.arm.name for point in named), _LONGEST_LABEL)
    for point in named:
        a, b = x.at(point.cost), y.at(point.value)
        width = 0.04 + _LETTER_WIDTH * len(names[point.arm.name])
        for side in ("above right", "above left", "below right", "below left"):
            left = a + 0.021 if "right" in side else a - 0.021 - width
            bottom = b + 0.02 if "above" in side else b - 0.02 - _LABEL_HEIGHT
            box = (left, bottom, left + width, bottom + _LABEL_HEIGHT)
            inside = left >= -0.05 and box[2] <= 1.05 and bottom >= -0.02
            if inside and not any(_overlap(box, other) for other in occupied):
                occupied.append(box)
                text = breakable(names[point.arm.name])
                labels.append(Label(point.cost, point.value, text, point.arm.slot, side))
                break
    return labels


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

"""What quality costs: the deciding metric against compute, cache, speed and memory, and which arms aren't beaten."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from lab.comparison.metrics import better, title
from lab.report.charts import Dot, Label, chart
from lab.report.panels.results.verdicts import decimals
from lab.report.parts import Panel, concat, figure, legend
from lab.report.report_data import ReportData, ReportedArm, ReportedRun
from lab.report.scales import Scale, scale, short_count
from lab.report.wording import fixed, join
from lab.units import count

_TITLE = "What it costs"
MOST_NAMED = 12
_LETTER_WIDTH, _LABEL_HEIGHT = 0.017, 0.075  # as shares of such a chart

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


@dataclass(frozen=True)
class Cost:
    """A quantity to have little of, or much.

    Attributes:
        of: a run's; None if it isn't known.
    """

    title: str
    of: Callable[[ReportedArm, ReportedRun], float | None]
    more_is_better: bool = False


def _known(name: str) -> Callable[[ReportedArm, ReportedRun], float | None]:
    return lambda arm, run: arm.costs.get(name)


def _measured(name: str) -> Callable[[ReportedArm, ReportedRun], float | None]:
    return lambda arm, run: run.result.costs.get(name)


_TOTAL_FLOPS = Cost("training FLOPs", _known("total_flops"))
_FLOPS_PER_TOKEN = Cost("training FLOPs a token", _known("flops_per_token"))
_COSTS = (
    Cost("KV cache, bytes a token", _known("kv_bytes_per_token")),
    Cost("training speed, tokens/s", _measured("tokens_per_second"), more_is_better=True),
    Cost("peak memory of training, bytes", _measured("peak_memory_bytes")),
)


@dataclass(frozen=True)
class Place:
    """An arm in a chart: its mean, as in the verdicts, at the mean cost of the seeds whose cost is known.

    Attributes:
        seeds: (run, cost, value) for each of those.
    """

    arm: ReportedArm
    cost: float
    value: float
    seeds: tuple[tuple[ReportedRun, float, float], ...]


def panel(data: ReportData) -> Panel:
    metric = title(data.metric)
    lead = (
        f"{metric[:1].upper()}{metric[1:]} against what an arm costs: large dots are arms, small ones "
        "their seeds, and the line joins those that no other arm beats on both."
    )
    plots, same, unknown = [], [], []
    # FLOPs of the whole training if a plan says them: arms may differ in tokens, or a teacher take part.
    with_total = all("total_flops" in arm.costs for arm in data.arms)
    for cost in (_TOTAL_FLOPS if with_total else _FLOPS_PER_TOKEN, *_COSTS):
        places = _places(data, cost)
        if len({place.cost for place in places}) < 2:
            same += [cost.title] if places else []
            continue
        plots.append(_plot(data, cost, places))
        unknown += _unknown(data, cost, places)
    if not plots:
        if same and sum(arm.row.cells[data.metric].sample.n > 0 for arm in data.arms) > 1:
            return Panel("pareto", _TITLE, lead, Markup("<p>Every arm costs the same: {}.</p>").format(join(same)))
        missing = ("Needs finished runs of two arms.", f"lab submit {data.sweep} --wait")
        return Panel("pareto", _TITLE, lead, missing=missing)
    notes = [*data.chart_notes, *([f"The same for every arm: {join(same)}."] if same else []), *unknown]
    body = legend(data.charted) + Markup('<div class="pair">{}</div>').format(concat(plots))
    return Panel("pareto", _TITLE, lead, body, notes=tuple(notes))


def front(places: list[Place], more_is_better: bool, direction: str | None) -> list[Place]:
    """The arms that no other arm beats on one quantity and equals or beats on the other; the cheapest first."""
    if direction is None:
        return []

    def key(place: Place) -> tuple[float, float]:
        return (
            -place.cost if more_is_better else place.cost,
            -place.value if direction == "higher" else place.value,
        )

    unbeaten: list[Place] = []
    for place in sorted(places, key=key):
        if not unbeaten or key(place)[1] < key(unbeaten[-1])[1]:
            unbeaten.append(place)
    return unbeaten


def _places(data: ReportData, cost: Cost) -> list[Place]:
    places = []
    for arm in data.arms:
        values = arm.row.arm.values(data.metric)
        seeds = tuple(
            (run, spent, values[run.seed])
            for run in arm.runs
            if math.isfinite(values.get(run.seed, math.nan))
            and (spent := cost.of(arm, run)) is not None
            and math.isfinite(spent)
        )
        mean = arm.row.cells[data.metric].sample.mean
        if seeds and mean is not None:
            places.append(Place(arm, math.fsum(spent for _, spent, _ in seeds) / len(seeds), mean, seeds))
    return places


def _unknown(data: ReportData, cost: Cost, places: list[Place]) -> list[str]:
    """A note on arms, or seeds of them, that have a result but aren't in a chart because their cost isn't known."""
    known = {place.arm.name: len(place.seeds) for place in places}
    names = []
    for arm in data.arms:
        n = arm.row.cells[data.metric].sample.n
        if known.get(arm.name, 0) < n:
            names.append(f"{arm.name} ({n - known[arm.name]} of {n})" if arm.name in known else arm.name)
    if not names:
        return []
    more = len(names) - MOST_NAMED
    arms = f"{', '.join(names[:MOST_NAMED])} and {more} arms more" if more > 0 else join(names)
    return [f"Without a {cost.title.partition(',')[0]}, so not drawn there: {arms}."]


def _plot(data: ReportData, cost: Cost, places: list[Place]) -> Markup:
    spent = [spent for place in places for _, spent, _ in place.seeds]
    log = min(spent) > 0 and max(spent) / min(spent) >= 8
    x = scale(spent, log=log, pad=0.07, label=short_count)
    y = scale([value for place in places for _, _, value in place.seeds], pad=0.07)
    unbeaten = front(places, cost.more_is_better, better(data.metric))
    n = decimals(data, data.metric)
    dots = [dot for place in places for dot in _dots(place, place.arm.row.cells[data.metric].sample.n, n)]
    charted = [(x.at(place.cost), y.at(place.value)) for place in places if place.arm.slot is not None]
    return figure(
        chart(
            x,
            y,
            x_title=f"{cost.title} ({'more' if cost.more_is_better else 'less'} is better)",
            y_title=title(data.metric),
            dots=dots,
            labels=_labels(unbeaten, charted, x, y),
            front=[(place.cost, place.value) for place in unbeaten],
            height=250,
        )
    )


def _dots(place: Place, seeds: int, n: int) -> list[Dot]:
    """A dot for the arm and, if charts show it, one for each of its seeds."""
    arm, charted = place.arm, place.arm.slot is not None
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
        for run, spent, value in (place.seeds if charted else ())
    ]
    detail = f"{arm.name}, mean of {seeds}: {fixed(place.value, n)} at {count(place.cost)}"
    return [*dots, Dot(place.cost, place.value, arm.slot, f"#{arm.anchor}", detail, 5.5 if charted else 3.0)]


def _labels(unbeaten: list[Place], dots: list[tuple[float, float]], x: Scale, y: Scale) -> list[Label]:
    """Names of the arms on the front, each beside its dot if there is room between other dots and names."""
    taken: list[Box] = [(a - 0.02, b - 0.03, a + 0.02, b + 0.03) for a, b in dots]
    labels: list[Label] = []
    for place in unbeaten:
        a, b = x.at(place.cost), y.at(place.value)
        width = 0.04 + _LETTER_WIDTH * min(len(place.arm.name), 24)
        for side in ("above right", "above left", "below right", "below left"):
            left = a + 0.021 if "right" in side else a - 0.021 - width
            bottom = b + 0.02 if "above" in side else b - 0.02 - _LABEL_HEIGHT
            box = (left, bottom, left + width, bottom + _LABEL_HEIGHT)
            inside = left >= -0.05 and box[2] <= 1.05 and bottom >= -0.02
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                labels.append(Label(place.cost, place.value, place.arm.name, place.arm.slot, side))
                break
    return labels


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

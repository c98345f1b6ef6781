"""What quality costs: the deciding metric against compute, cache, speed and memory, and who isn't beaten on both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from lab.comparison.metrics import better, title
from lab.report.charts import Dot, Label, chart
from lab.report.facts import ArmFacts, Facts, RunFacts
from lab.report.panels.verdicts import decimals
from lab.report.parts import Panel, figure, legend
from lab.report.scales import Scale, counted, scale
from lab.report.wording import fixed, listed
from lab.units import count

_TITLE = "What it costs"
MOST_NAMED = 12
_LETTER, _HIGH = 0.017, 0.075  # of a name, as shares of such a chart


@dataclass(frozen=True)
class Cost:
    """Something to have little of, or much.

    Attributes:
        of: a run's; None where it isn't known.
        measured: by the run, so that its seeds differ in it.
    """

    title: str
    of: Callable[[ArmFacts, RunFacts], float | None]
    more_is_better: bool = False


def _known(name: str) -> Callable[[ArmFacts, RunFacts], float | None]:
    return lambda arm, run: arm.row.arm.costs.get(name)


def _measured(name: str) -> Callable[[ArmFacts, RunFacts], float | None]:
    return lambda arm, run: run.run.costs.get(name)


_FLOPS = (Cost("training FLOPs", _known("total_flops")), Cost("training FLOPs a token", _known("flops_per_token")))
_COSTS = (
    Cost("KV cache, bytes a token", _known("kv_bytes_per_token")),
    Cost("training speed, tokens/s", _measured("tokens_per_second"), more_is_better=True),
    Cost("peak memory of training, bytes", _measured("peak_memory_bytes")),
)


@dataclass(frozen=True)
class Place:
    """An arm: its mean over all seeds with a result, as in the verdicts, at the mean cost of those that know theirs."""

    arm: ArmFacts
    cost: float
    value: float
    seeds: tuple[tuple[RunFacts, float, float], ...]


def panel(facts: Facts) -> Panel:
    metric = facts.metric
    lead = (
        f"{title(metric)[:1].upper()}{title(metric)[1:]} against what an arm costs: large dots are arms, small ones "
        "their seeds, and the line joins those that no other arm beats on both."
    )
    plots, same, lacking = [], [], []
    # Those of the whole training, where the arms' plan says them: tokens may differ, or a teacher take part.
    flops = _FLOPS[0] if all("total_flops" in arm.row.arm.costs for arm in facts.arms) else _FLOPS[1]
    for cost in (flops, *_COSTS):
        places = _places(facts, cost)
        if len({place.cost for place in places}) < 2:
            same += [cost.title] if places else []
            continue
        plots.append(_plot(facts, cost, places))
        lacking += _lacking(facts, cost, places)
    if not plots:
        if sum(arm.row.cells[metric].sample.n > 0 for arm in facts.arms) > 1 and same:
            return Panel("pareto", _TITLE, lead, Markup("<p>Every arm costs the same: {}.</p>").format(listed(same)))
        missing = ("Needs finished runs of two arms.", f"lab submit {facts.sweep} --wait")
        return Panel("pareto", _TITLE, lead, missing=missing)
    notes = [facts.left_undrawn] if facts.left_undrawn else []
    if same:
        notes.append(f"The same for every arm: {listed(same)}.")
    notes += lacking
    body = legend(facts.drawn) + Markup('<div class="pair">{}</div>').format(Markup("").join(plots))
    return Panel("pareto", _TITLE, lead, body, notes=tuple(notes))


def _lacking(facts: Facts, cost: Cost, places: list[Place]) -> list[str]:
    """Which arms, or seeds of them, have a result and aren't in a chart, as their cost isn't known."""
    shown = {place.arm.name: len(place.seeds) for place in places}
    found = []
    for arm in facts.arms:
        n = arm.row.cells[facts.metric].sample.n
        if shown.get(arm.name, 0) < n:
            found.append(f"{arm.name} ({n - shown.get(arm.name, 0)} of {n})" if arm.name in shown else arm.name)
    more = f" and {len(found) - MOST_NAMED} arms more" if len(found) > MOST_NAMED else ""
    said = f"{', '.join(found[:MOST_NAMED])}{more}" if more else listed(found) if found else ""
    return [f"Without a {cost.title.partition(',')[0]}, so not drawn there: {said}."] if found else []


def front(places: list[Place], more_is_better: bool, direction: str | None) -> list[Place]:
    """The arms that no other arm beats on one and equals or beats on the other; by cost, from the cheapest."""
    if direction is None:
        return []

    def key(place: Place) -> tuple[float, float]:
        return (
            -place.cost if more_is_better else place.cost,
            -place.value if direction == "higher" else place.value,
        )

    found: list[Place] = []
    for place in sorted(places, key=key):
        if not found or key(place)[1] < key(found[-1])[1]:
            found.append(place)
    return found


def _places(facts: Facts, cost: Cost) -> list[Place]:
    found = []
    for arm in facts.arms:
        values = arm.row.arm.values(facts.metric)
        seeds = tuple(
            (run, spent, values[run.run.seed])
            for run in arm.runs
            if run.run.seed in values
            and math.isfinite(values[run.run.seed])
            and (spent := cost.of(arm, run)) is not None
            and math.isfinite(spent)
        )
        if seeds:
            mean = arm.row.cells[facts.metric].sample.mean
            assert mean is not None
            found.append(Place(arm, math.fsum(spent for _, spent, _ in seeds) / len(seeds), mean, seeds))
    return found


def _plot(facts: Facts, cost: Cost, places: list[Place]) -> Markup:
    spent = [each for place in places for _, each, _ in place.seeds]
    values = [value for place in places for _, _, value in place.seeds]
    log = min(spent) > 0 and max(spent) / min(spent) >= 8
    x, y = scale(spent, log=log, pad=0.07, label=counted), scale(values, pad=0.07)
    best = front(places, cost.more_is_better, better(facts.metric))
    n = decimals(facts, facts.metric)
    dots = []
    drawn = [place for place in places if place.arm.slot is not None]
    for place in places:
        arm = place.arm
        told = f"{fixed(place.value, n)} at {count(place.cost)}"
        for run, a, b in place.seeds if place in drawn else ():
            dots.append(
                Dot(
                    a,
                    b,
                    arm.slot,
                    f"#{run.anchor}",
                    f"{arm.name}, seed {run.run.seed}: {fixed(b, n)} at {count(a)}",
                    2.6,
                    True,
                )
            )
        size = 5.5 if place in drawn else 3.0
        dots.append(
            Dot(
                place.cost,
                place.value,
                arm.slot,
                f"#{arm.anchor}",
                f"{arm.name}, mean of {arm.row.cells[facts.metric].sample.n}: {told}",
                size,
            )
        )
    labels = _labels(best, [(x.at(place.cost), y.at(place.value)) for place in drawn], x, y)
    plot = chart(
        x,
        y,
        x_title=f"{cost.title} ({'more' if cost.more_is_better else 'less'} is better)",
        y_title=title(facts.metric),
        dots=dots,
        labels=labels,
        front=[(place.cost, place.value) for place in best],
        height=250,
    )
    return figure(plot)


def _labels(best: list[Place], dots: list[tuple[float, float]], x: Scale, y: Scale) -> list[Label]:
    """Names of the arms on the front, each beside its dot where it covers no other dot and no other name."""
    boxes = [(a - 0.02, b - 0.03, a + 0.02, b + 0.03) for a, b in dots]
    labels: list[Label] = []
    for place in best:
        a, b = x.at(place.cost), y.at(place.value)
        wide = 0.04 + _LETTER * min(len(place.arm.name), 24)
        for side in ("above right", "above left", "below right", "below left"):
            left = a + 0.021 if "right" in side else a - 0.021 - wide
            low = b + 0.02 if "above" in side else b - 0.02 - _HIGH
            box = (left, low, left + wide, low + _HIGH)
            if (
                left >= -0.05
                and left + wide <= 1.05
                and low >= -0.02
                and not any(_overlap(box, other) for other in boxes)
            ):
                boxes.append(box)
                labels.append(Label(place.cost, place.value, place.arm.name, place.arm.slot, side))
                break
    return labels


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

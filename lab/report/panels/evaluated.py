"""What evaluators measured along something: loss by position and context, recall by distance, and any other curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lab.comparison.read.curves import Curve, band
from lab.comparison.tables.footnotes import percent
from lab.report.charts import Line, chart
from lab.report.facts import ArmFacts, Facts, RunFacts
from lab.report.parts import Panel, figure, legend, mean_line, tabs
from lab.report.scales import scale
from lab.report.wording import listed

MOST_CURVES = 24

_TITLES = {
    "loss_by_position": "by position in the window",
    "loss_by_context": "by context",
    "loss_by_window": "by window at inference",
    "accuracy_by_distance": "recall by distance",
}
_LOSSES = ("loss_by_position", "loss_by_context", "loss_by_window")
_RECALL = ("accuracy_by_distance",)
_EVENTS = ("loss_spikes", "grad_norm_spikes")  # of each run its own, so nothing to take a mean of

Key = tuple[str, str]
"""An evaluation's name and its curve's."""


def panels(facts: Facts) -> list[Panel]:
    found = _curves(facts)
    losses = {key: each for key, each in found.items() if key[1] in _LOSSES}
    recall = {key: each for key, each in found.items() if key[1] in _RECALL}
    rest = {key: each for key, each in found.items() if key[1] not in (*_LOSSES, *_RECALL, *_EVENTS)}
    made = [
        _panel(
            facts,
            losses,
            "positions",
            "Loss by position and context",
            "What text before a token is worth to the arms.",
            ("No run has been measured along its context.", f"lab eval {facts.sweep} context"),
        ),
        _panel(
            facts,
            recall,
            "recall",
            "Recall by distance",
            "How far back the arms can look something up.",
            ("No run has been asked to recall.", f"lab eval {facts.sweep} recall"),
        ),
    ]
    if rest:
        lead = "Everything else that evaluators measured along something."
        made.append(_panel(facts, rest, "evaluations", "Other evaluations", lead, ("", "")))
    return made


def _curves(facts: Facts) -> dict[Key, dict[str, dict[int, Mapping[str, Any]]]]:
    """Evaluation and curve → arm → seed → the curve, with its evaluation's details; of finished runs alone."""
    found: dict[Key, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for arm in facts.drawn:
        for run in arm.runs:
            for name, evaluation in run.evaluations.items() if run.run.finished else ():
                for key, curve in evaluation["curves"].items():
                    if isinstance(curve, dict) and _points(curve):
                        of_arm = found.setdefault((name, key), {}).setdefault(arm.name, {})
                        of_arm[run.run.seed] = {**curve, "details": evaluation["details"]}
    return found


def _panel(
    facts: Facts,
    found: Mapping[Key, Mapping[str, Mapping[int, Mapping[str, Any]]]],
    anchor: str,
    name: str,
    lead: str,
    missing: tuple[str, str],
) -> Panel:
    if not found:
        return Panel(anchor, name, lead, missing=missing)
    shown = list(found.items())[:MOST_CURVES]
    lines = {key: _lines(facts, by_arm) for key, by_arm in shown}
    views = [(_title(key, found), _chart(by_arm, lines[key])) for key, by_arm in shown]
    said = f"Means over an arm's seeds with their {percent(facts.comparison.level)} t bands."
    notes = ["Bands may go on beyond the axis, which is drawn to the means."]
    if any(line.mark is not None for each in lines.values() for line in each):
        notes.append("A dotted line in an arm's colour marks how far all its layers together can look back.")
    notes += [facts.left_undrawn] if facts.left_undrawn else []
    measured = {arm for by_arm in found.values() for arm in by_arm}
    lacking = [arm.name for arm in facts.drawn if arm.name not in measured]
    if lacking:
        notes.append(f"Not measured yet: {listed(lacking)}.")
    notes += _partly(facts, found)
    if len(found) > len(shown):
        notes.append(f"{len(found) - len(shown)} curves more are in the runs' evaluations.")
    there = [arm for arm in facts.drawn if arm.name in measured]
    return Panel(anchor, name, f"{lead} {said}", legend(there) + tabs(views), notes=tuple(notes))


def _partly(facts: Facts, found: Mapping[Key, Mapping[str, Mapping[int, Mapping[str, Any]]]]) -> list[str]:
    """Which seeds of the arms that are shown no mean holds, and why not."""
    notes = []
    for arm in facts.drawn:
        seeds = {seed for by_arm in found.values() for seed in by_arm.get(arm.name, ())}
        if seeds:
            other = [f"{run.run.seed} {_why(run)}" for run in arm.runs if run.run.seed not in seeds]
            notes += [f"{arm.name} without seed {listed(other)}."] if other else []
    return notes


def _why(run: RunFacts) -> str:
    """Why a run is in no mean: what became of it, or that it hasn't been measured."""
    return "(not measured)" if run.run.finished else f"({run.run.status})"


def _title(key: Key, found: Mapping[Key, Any]) -> str:
    """A friendly name, with the evaluation's where two have such a curve."""
    evaluation, curve = key
    name = _TITLES.get(curve, curve.replace("_", " "))
    alone = sum(other[1] == curve for other in found) == 1
    return name if alone and curve in _TITLES else f"{evaluation}: {name}"


def _lines(facts: Facts, by_arm: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[Line]:
    found = [_line(facts, arm, by_arm[arm.name]) for arm in facts.drawn if arm.name in by_arm]
    return [line for line in found if line.x]


def _chart(by_arm: Mapping[str, Mapping[int, Mapping[str, Any]]], lines: Sequence[Line]) -> Markup:
    first = next(iter(next(iter(by_arm.values())).values()))
    places = sorted({x for line in lines for x in line.x})
    log = bool(places) and places[0] > 0 and places[-1] >= 16 * places[0]
    few = len(places) <= 9 and all(place == int(place) for place in places)
    x = scale(places, log=log, pad=0.02, named=places if few else ())
    values = [value for line in lines for value in line.y]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.3 * (high - low)
    edges = [v for line in lines for ends in (line.low, line.high) for v in ends or ()]
    values += [min(max(edge, low - room), high + room) for edge in edges]
    return figure(
        chart(x, scale(values), x_title=str(first.get("x", "")), y_title=str(first.get("y", "")), lines=lines)
    )


def _line(facts: Facts, arm: ArmFacts, by_seed: Mapping[int, Mapping[str, Any]]) -> Line:
    curves = {}
    for seed, curve in sorted(by_seed.items()):
        points = _points(curve)
        curves[seed] = Curve(tuple(x for x, _ in points), tuple(y for _, y in points))
    found = band(curves, facts.comparison.level)
    reach = next(iter(by_seed.values()))["details"].get("reach")
    mark = float(reach) if isinstance(reach, int | float) and found.x and reach < max(found.x) else None
    return mean_line(arm, found, mark)


def _points(curve: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The points that are two finite numbers each, in order of x."""
    found = []
    points = curve.get("points")
    for point in points if isinstance(points, list) else ():
        match point:
            case [int() | float() as x, int() | float() as y] if math.isfinite(x) and math.isfinite(y):
                found.append((float(x), float(y)))
    return sorted(found)

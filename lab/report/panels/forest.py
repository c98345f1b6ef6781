"""The forest plot: every arm's difference from the baseline, with its interval and one dot a seed."""

from __future__ import annotations

import math

from markupsafe import Markup

from lab.comparison.metrics import better, title
from lab.comparison.tables.footnotes import percent
from lab.report.charts import Dot, strip, strip_axis
from lab.report.facts import ArmFacts, Facts
from lab.report.panels.verdicts import decimals, pill, verdict
from lab.report.parts import Panel, arm_link, figure, runs_link, tabs
from lab.report.scales import Scale, scale
from lab.report.wording import NONE, fixed

_TITLE = "Differences, seed by seed"


def panel(facts: Facts) -> Panel:
    sweep = facts.comparison.sweep
    found = [(title(metric), plot) for metric in sweep.metrics if (plot := _plot(facts, metric)) is not None]
    if not found:
        return Panel(
            "forest",
            _TITLE,
            "Each arm less the baseline, a dot for each seed.",
            missing=(
                "Needs one seed that has finished both in an arm and in the baseline.",
                f"lab submit {sweep.name} --wait",
            ),
        )
    notes = ["An interval that ends in an arrow goes on beyond the axis, which is drawn to the seeds."]
    if sweep.equivalence is not None:
        notes.append(
            f"Shaded: within ±{sweep.equivalence:g} of {title(facts.metric)}, which the sweep calls equivalent."
        )
    return Panel(
        "forest",
        _TITLE,
        f"Each arm less the baseline: the mean (diamond) with its {percent(facts.comparison.level)} interval, and "
        "below it one dot for each seed, which leads to the run.",
        tabs(found),
        notes=tuple(notes),
    )


def _plot(facts: Facts, metric: str) -> Markup | None:
    arms = [arm for arm in facts.listed if _differences(facts, arm, metric)]
    if not arms:
        return None
    axis, n = _axis(facts, arms, metric), decimals(facts, metric)
    rows = Markup("").join(_row(facts, arm, metric, axis, n) for arm in arms)
    direction = {"lower": "← better", "higher": "better →", None: ""}[better(metric)]
    baseline = facts.baseline
    said = f"difference from {baseline.name if baseline else 'the baseline'} in {title(metric)}"
    return figure(
        Markup('<div class="forest">{}<div class="row last"><span></span>{}<span></span></div></div>').format(
            rows, strip_axis(axis)
        ),
        Markup("{} <b>{}</b>").format(said, direction),
    )


def _row(facts: Facts, arm: ArmFacts, metric: str, axis: Scale, n: int) -> Markup:
    cell = arm.row.cells[metric]
    difference = cell.difference
    interval = difference.interval if difference else None
    dots = [
        Dot(value, 0, arm.slot, f"#{run.anchor}", f"{arm.name}, seed {run.run.seed}: {fixed(value, n, signed=True)}")
        for run, value in ((run, _differences(facts, arm, metric).get(run.run.seed)) for run in arm.runs)
        if value is not None
    ]
    margin = cell.equivalence.margin if cell.equivalence else None
    drawn = strip(
        axis,
        difference.mean if difference else None,
        (interval.low, interval.high) if interval else None,
        dots,
        arm.slot,
        margin,
    )
    mean = fixed(difference.mean, n, signed=True) if difference else NONE
    return Markup('<div class="row"><span class="who">{}</span>{}<span class="val">{} {}</span></div>').format(
        arm_link(arm), drawn, runs_link(arm, mean), pill(verdict(cell))
    )


def _differences(facts: Facts, arm: ArmFacts, metric: str) -> dict[int, float]:
    """Seed → arm less baseline, where both have a finite value."""
    baseline = facts.baseline
    if baseline is None or arm.row.is_baseline:
        return {}
    mine, held = arm.row.arm.values(metric), baseline.row.arm.values(metric)
    found = {seed: mine[seed] - held[seed] for seed in mine if seed in held}
    return {seed: value for seed, value in found.items() if math.isfinite(value)}


def _axis(facts: Facts, arms: list[ArmFacts], metric: str) -> Scale:
    """Holds every seed and zero, and of the intervals what doesn't squeeze the seeds into a corner."""
    values = [value for arm in arms for value in _differences(facts, arm, metric).values()] + [0.0]
    low, high = min(values), max(values)
    room = 0.75 * (high - low)
    for arm in arms:
        difference = arm.row.cells[metric].difference
        if difference is not None and difference.interval is not None:
            values += [max(low - room, difference.interval.low), min(high + room, difference.interval.high)]
    return scale(values, pad=0.03)

"""Main effects and interactions of a grid's axes."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from lab.comparison.metrics import better, title
from lab.comparison.statistics.factorial import Effect, Factorial
from lab.comparison.tables.footnotes import percent
from lab.report.charts import Dot, strip, strip_axis
from lab.report.facts import Facts
from lab.report.panels.verdicts import decimals
from lab.report.parts import Panel, Text, every_run_link, figure, tabs
from lab.report.scales import Scale, scale
from lab.report.wording import fixed, listed, p_value, some

MOST_EFFECTS = 60
_TITLE = "Main effects and interactions"
_LEAD = (
    "What each axis of the grid does on average over the others, and where two do more, or less, than their sum: "
    "the mean (diamond) with its interval, and below it one dot for each seed, which is a block."
)
_COMMAND = "lab submit SWEEP  # with grid: {model/softcap: [none, gemma2], model/qk_norm: [none, rmsnorm]}"


def panel(facts: Facts) -> Panel:
    effects = facts.comparison.effects
    found = {metric: each for metric, each in effects.items() if each.effects}
    if not found:
        reason = next((each.reason for each in effects.values() if each.reason), "there is no result yet")
        missing = (f"Not worked out: {reason}. A whole grid of two axes or more fills this.", _COMMAND)
        return Panel("effects", _TITLE, _LEAD, missing=missing)
    notes = ["p is that of a paired t test over seeds, corrected by Holm's procedure for all effects on a metric."]
    for seed, arms in next(iter(found.values())).lacking[:12]:
        more = f" and {len(arms) - 3} more" if arms[3:] else ""
        notes.append(f"Seed {seed} is in no effect: without a result of {listed(arms[:3])}{more}.")
    views = [(title(metric), _plot(facts, each)) for metric, each in found.items()]
    return Panel("effects", _TITLE, _LEAD, tabs(views), notes=tuple(notes))


def _plot(facts: Facts, found: Factorial) -> Markup:
    shown = found.effects[:MOST_EFFECTS]
    axis, n = _axis(shown), decimals(facts, found.metric)
    parts = [
        Markup("<h3>{}</h3>{}").format(heading, Markup("").join(_row(effect, found, axis, n) for effect in effects))
        for heading, effects in (
            ("Main effects", [effect for effect in shown if len(effect.factors) == 1]),
            ("Interactions", [effect for effect in shown if len(effect.factors) > 1]),
        )
        if effects
    ]
    last = Markup('<div class="row last"><span></span>{}<span></span></div>').format(strip_axis(axis))
    direction = {"lower": "← better", "higher": "better →", None: ""}[better(found.metric)]
    more = len(found.effects) - len(shown)
    rest = f"; {some(more, 'interaction')} more in `lab compare --json`" if more else ""
    return figure(
        Markup('<div class="forest wide">{}{}</div>').format(Markup("").join(parts), last),
        Markup("effect on {}, {} interval{} <b>{}</b>").format(
            title(found.metric), percent(facts.comparison.level), rest, direction
        ),
    )


def _row(effect: Effect, found: Factorial, axis: Scale, n: int) -> Markup:
    dots = [
        Dot(value, 0, None, "#runs", f"{effect.name}, seed {seed}: {fixed(value, n, signed=True)}")
        for seed, value in zip(found.seeds, effect.values, strict=True)
    ]
    interval = effect.interval
    ends: Text = ""
    if interval is not None:
        low, high = (fixed(end, n, signed=True) for end in (interval.low, interval.high))
        ends = Markup('<small class="dim">{}</small>').format(every_run_link(f"[{low}, {high}]"))
    return Markup(
        '<div class="row"><span class="who">{}</span>{}<span class="val">{} {} <small>{}</small></span></div>'
    ).format(
        effect.name,
        strip(axis, effect.mean, (interval.low, interval.high) if interval else None, dots, 1),
        every_run_link(fixed(effect.mean, n, signed=True)),
        ends,
        p_value(effect.p_holm),
    )


def _axis(effects: Sequence[Effect]) -> Scale:
    """Holds every seed and zero, and of the intervals what doesn't squeeze the seeds into a corner."""
    values = [0.0, *(value for effect in effects for value in effect.values)]
    low, high = min(values), max(values)
    room = 0.75 * (high - low)
    for effect in effects:
        if effect.interval is not None:
            values += [max(low - room, effect.interval.low), min(high + room, effect.interval.high)]
    return scale(values, pad=0.03)

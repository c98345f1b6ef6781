"""Main effects and interactions of a grid's axes."""

from __future__ import annotations

from markupsafe import Markup

from lab.comparison.metrics import better, title
from lab.comparison.statistics.factorial import Effect, Factorial
from lab.report.charts import Dot, strip, strip_scale
from lab.report.panels.results.verdicts import BETTER_ARROWS, decimals, interval_text
from lab.report.parts import Panel, concat, every_run_link, forest, tabs
from lab.report.report_data import ReportData
from lab.report.scales import Scale
from lab.report.wording import fixed, join_names, p_value
from lab.units import percent, plural

MOST_EFFECTS = 60
_TITLE = "Main effects and interactions"
_LEAD = (
    "The effect of each axis of the grid, averaged over the other axes, and interactions: how much two axes together "
    "do more, or less, than the sum of their effects. Each row shows the mean (diamond) with its interval, and below "
    "it one dot for each seed."
)
_COMMAND = "lab submit SWEEP  # with grid: {model/softcap: [none, gemma2], model/qk_norm: [none, rmsnorm]}"


def panel(data: ReportData) -> Panel:
    designs = data.comparison.effects
    with_effects = {metric: design for metric, design in designs.items() if design.effects}
    if not with_effects:
        reason = next((design.reason for design in designs.values() if design.reason), "there is no result yet")
        missing = (f"No effects: {reason}. This panel needs a complete grid of at least two axes.", _COMMAND)
        return Panel("effects", _TITLE, _LEAD, missing=missing)
    notes = ["p-values are from paired t tests over seeds, corrected by Holm's procedure for all effects on a metric."]
    for seed, arms in next(iter(with_effects.values())).lacking[:12]:
        more = f" and {len(arms) - 3} more" if arms[3:] else ""
        notes.append(f"Seed {seed} is in no effect: no result for {join_names(arms[:3])}{more}.")
    views = [(title(metric), _plot(data, design)) for metric, design in with_effects.items()]
    return Panel("effects", _TITLE, _LEAD, tabs(views), notes=tuple(notes))


def _plot(data: ReportData, design: Factorial) -> Markup:
    shown_effects, n = design.effects[:MOST_EFFECTS], decimals(data, design.metric)
    intervals = [effect.interval for effect in shown_effects if effect.interval is not None]
    axis = strip_scale(
        (value for effect in shown_effects for value in effect.values),
        ((interval.low, interval.high) for interval in intervals),
    )
    groups = {
        "Main effects": [effect for effect in shown_effects if len(effect.factors) == 1],
        "Interactions": [effect for effect in shown_effects if len(effect.factors) > 1],
    }
    rows = [
        Markup("<h3>{}</h3>{}").format(heading, concat(_row(effect, design, axis, n) for effect in effects))
        for heading, effects in groups.items()
        if effects
    ]
    more = len(design.effects) - len(shown_effects)
    rest = f"; {plural(more, 'more interaction')} in `lab compare --json`" if more else ""
    caption = Markup("effect on {}, {} interval{} <b>{}</b>").format(
        title(design.metric), percent(data.comparison.level), rest, BETTER_ARROWS[better(design.metric)]
    )
    return forest(rows, axis, caption, wide=True)


def _row(effect: Effect, design: Factorial, axis: Scale, n: int) -> Markup:
    dots = [
        Dot(value, 0, None, "#runs", f"{effect.name}, seed {seed}: {fixed(value, n, signed=True)}")
        for seed, value in zip(design.seeds, effect.values, strict=True)
    ]
    interval, ends = effect.interval, Markup("")
    if interval is not None:
        ends = Markup('<small class="dim">{}</small>').format(every_run_link(interval_text(interval, n)))
    return Markup(
        '<div class="row"><span class="who">{}</span>{}<span class="val">{} {} <small>{}</small></span></div>'
    ).format(
        effect.name,
        strip(axis, effect.mean, (interval.low, interval.high) if interval else None, dots, 1),
        every_run_link(fixed(effect.mean, n, signed=True)),
        ends,
        p_value(effect.p_holm),
    )

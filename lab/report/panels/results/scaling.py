"""Scaling of the loss with size and data: the fitted law, and the runs that it is fitted to."""

from __future__ import annotations

from dataclasses import replace

from markupsafe import Markup

from lab.comparison.compare import LOSS
from lab.comparison.statistics.scaling import Scaling, scaling
from lab.comparison.statistics.scaling_law import LawFit
from lab.report.charts import Dot, Line, chart
from lab.report.parts import Column, Panel, Text, concat, every_run_link, figure, table, tabs
from lab.report.report_data import ReportData, ReportedArm
from lab.report.scales import scale, short_count
from lab.report.wording import as_written, join_names
from lab.units import count, percent, plural

MOST_BUDGETS = 7
"""The most token budgets for which a chart draws the law."""
MOST_FITS = 12
_TITLE = "Scaling"
_LEAD = Markup(
    "Loss over sizes, with the law <i>E</i> + <i>A</i>/<i>N</i><sup>α</sup> + <i>B</i>/<i>D</i><sup>β</sup> "
    "(Hoffmann et al. 2022, approach 3) fitted to the finished runs."
)
_COMMAND = "lab submit SWEEP  # with grid: {model.d_model: [64, 96, 128], train.tokens: [1M, 2M, 4M]}"
_STEPS = 48
_SYMBOLS = {"e": "E", "a": "A", "b": "B", "alpha": "α", "beta": "β"}


def panel(data: ReportData) -> Panel:
    sweep, unlike = data.comparison.sweep, data.comparison.unlike.get(LOSS, {})
    comparable = {name: arm for name, arm in sweep.arms.items() if name not in unlike}
    groups = scaling(replace(sweep, arms=comparable), level=data.comparison.level)
    fits = [(group, group.fit) for group in groups if group.fit is not None]
    if not fits:
        reason = next((group.reason for group in groups if group.reason), "there is no result yet")
        missing = (f"No fit: {reason}. This panel needs a sweep over sizes and token budgets.", _COMMAND)
        return Panel("scaling", _TITLE, _LEAD, missing=missing)
    notes = [
        f"Bands and intervals are {percent(data.comparison.level)} percentiles of a bootstrap over the runs. The best "
        "size for a budget of C FLOPs grows as C to the power β/(α + β)."
    ]
    notes += [f"{_name(group)}: no fit, {group.reason}." for group in groups if group.reason]
    if unlike:
        notes.append(f"In no fit, as their loss can't be compared with the baseline's: {join_names(list(unlike))}.")
    if any(not fit.has_floor for _, fit in fits):
        notes.append(
            "If the losses don't come near a floor, E can't be distinguished from 0; A, B and the exponents are then "
            "those of a law without a floor. Larger sizes and budgets, with smaller losses, would determine E."
        )
    views = [(_name(group), _view(data, fit, group)) for group, fit in fits[:MOST_FITS]]
    return Panel("scaling", _TITLE, _LEAD, tabs(views), notes=tuple(notes[:12]))


def _name(group: Scaling) -> str:
    return ", ".join(f"{axis} {as_written(value)}" for axis, value in group.group.items()) or "all arms"


def _view(data: ReportData, fit: LawFit, group: Scaling) -> Markup:
    budgets = sorted({point.tokens for point in fit.points})
    chosen = budgets[:: -(-len(budgets) // MOST_BUDGETS)]
    slots = {budget: number for number, budget in enumerate(chosen, start=1)}
    x = scale([point.parameters for point in fit.points], log=True, label=short_count)
    sizes = [x.low * (x.high / x.low) ** (step / _STEPS) for step in range(_STEPS + 1)]
    lines = []
    for budget, slot in slots.items():
        bands = [fit.band(size, budget) for size in sizes]
        losses = [fit.law.loss(size, budget) for size in sizes]
        low, high = [band.low for band in bands], [band.high for band in bands]
        lines.append(Line(f"{count(budget)} tokens", slot, sizes, losses, low, high))
    dots = [dot for arm in data.arms if arm.name in group.arms for dot in _dots(arm, slots)]
    y = scale([dot.y for dot in dots] + [value for line in lines for value in line.y])
    legend = concat(
        Markup('<li data-s="{0}"><i class="sw b{0}"></i>{1} tokens</li>').format(slot, count(budget))
        for budget, slot in slots.items()
    )
    plot = chart(x, y, x_title="parameters N", y_title="validation loss (nats per token)", lines=lines, dots=dots)
    caption = f"{plural(len(fit.points), 'run')}; the law is off by {100 * fit.rms:.2g}% on average (root mean square)"
    return Markup('<ul class="legend">{}</ul>{}{}').format(legend, figure(plot, caption), _parameters(fit))


def _dots(arm: ReportedArm, slots: dict[float, int]) -> list[Dot]:
    """Dots for an arm's finished runs, the points of the fit."""
    dots = []
    for run in arm.runs:
        loss = run.result.metrics.get("val/loss") if run.finished else None
        size, budget = arm.costs.get("parameters"), arm.row.arm.tokens(run.seed)
        if loss is not None and size and budget:
            detail = f"{arm.name}, seed {run.seed}: {count(size)} parameters, {count(budget)} tokens, loss {loss:.4f}"
            dots.append(Dot(size, loss, slots.get(budget), f"#{run.anchor}", detail, 3.6))
    return dots


def _parameters(fit: LawFit) -> Markup:
    values = {**{name: getattr(fit.law, name) for name in _SYMBOLS}, "optimal_exponent": fit.law.optimal_exponent}
    rows: list[list[Text]] = []
    for name, value in values.items():
        interval = fit.intervals[name]
        ends = f"[{_number(interval.low)}, {_number(interval.high)}]"
        rows.append([_SYMBOLS.get(name, "β/(α + β)"), every_run_link(_number(value)), every_run_link(ends)])
    return table([Column("parameter", "text"), Column("estimate"), Column("interval")], rows)


def _number(value: float) -> str:
    return "0" if abs(value) < 1e-6 else f"{value:.4g}"

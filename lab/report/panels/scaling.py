"""How loss falls with size and data: the fitted law beside the runs that it is of."""

from __future__ import annotations

from markupsafe import Markup

from lab.comparison.statistics.scaling import Scaling, scaling
from lab.comparison.statistics.scaling_law import Fit
from lab.comparison.tables.footnotes import percent
from lab.report.charts import Dot, Line, chart
from lab.report.facts import ArmFacts, Facts
from lab.report.parts import Column, Panel, Text, every_run_link, figure, table, tabs
from lab.report.scales import counted, scale
from lab.report.wording import plain, some
from lab.units import count

MOST_BUDGETS = 7
"""Budgets of tokens that a chart draws the law for."""
MOST_FITS = 12
_TITLE = "Scaling"
_LEAD = Markup(
    "Loss over sizes, with the law <i>E</i> + <i>A</i>/<i>N</i><sup>α</sup> + <i>B</i>/<i>D</i><sup>β</sup> "
    "(Hoffmann et al. 2022, approach 3) fitted to the finished runs."
)
_COMMAND = "lab submit SWEEP  # with grid: {model.d_model: [64, 96, 128], train.tokens: [1M, 2M, 4M]}"
_STEPS = 48
_SYMBOLS = {"e": "E", "a": "A", "b": "B", "alpha": "α", "beta": "β"}


def panel(facts: Facts) -> Panel:
    groups = scaling(facts.comparison.sweep, level=facts.comparison.level)
    fitted = [group for group in groups if group.fit is not None]
    if not fitted:
        reasons = list(dict.fromkeys(group.reason for group in groups if group.reason))
        said = reasons[0] if reasons else "there is no result yet"
        missing = (f"No fit: {said}. A sweep over sizes and budgets of tokens fills this.", _COMMAND)
        return Panel("scaling", _TITLE, _LEAD, missing=missing)
    notes = [
        f"Bands and intervals are {percent(facts.comparison.level)} percentiles of a bootstrap over the runs. The best "
        "size for a budget of C FLOPs grows as C to the power β/(α + β)."
    ]
    for group in groups:
        if group.reason:
            notes.append(f"{_name(group)}: no fit, {group.reason}.")
    if any(group.fit and not group.fit.has_floor for group in fitted):
        notes.append(
            "E can't be told from 0 where no floor is in sight of the losses: then A and B take its place, and the "
            "exponents are those of a law without one. Smaller losses, of larger sizes and budgets, tell."
        )
    views = [(_name(group), _view(facts, group.fit, group)) for group in fitted[:MOST_FITS] if group.fit]
    return Panel("scaling", _TITLE, _LEAD, tabs(views), notes=tuple(notes[:12]))


def _name(group: Scaling) -> str:
    return ", ".join(f"{axis} {plain(value)}" for axis, value in group.group.items()) or "all arms"


def _view(facts: Facts, fit: Fit, group: Scaling) -> Markup:
    arms = [arm for arm in facts.arms if arm.name in set(group.arms)]
    budgets = sorted({point.tokens for point in fit.points})
    chosen = budgets[:: -(-len(budgets) // MOST_BUDGETS)]
    slots = {budget: place + 1 for place, budget in enumerate(chosen)}
    x = scale([point.parameters for point in fit.points], log=True, label=counted)
    sizes = [x.low * (x.high / x.low) ** (step / _STEPS) for step in range(_STEPS + 1)]
    lines = []
    for budget, slot in slots.items():
        bands = [fit.band(size, budget) for size in sizes]
        law = [fit.law.loss(size, budget) for size in sizes]
        low, high = [band.low for band in bands], [band.high for band in bands]
        lines.append(Line(f"{count(budget)} tokens", slot, sizes, law, low, high))
    dots = [dot for arm in arms for dot in _dots(arm, slots)]
    y = scale([dot.y for dot in dots] + [value for line in lines for value in line.y])
    key = Markup("").join(
        Markup('<li data-s="{0}"><i class="sw b{0}"></i>{1} tokens</li>').format(slot, count(budget))
        for budget, slot in slots.items()
    )
    plot = chart(x, y, x_title="parameters N", y_title="validation loss (nats a token)", lines=lines, dots=dots)
    told = f"{some(len(fit.points), 'run')}; the law is off by {100 * fit.rms:.2g}% on average (root mean square)"
    return Markup('<ul class="legend">{}</ul>{}{}').format(key, figure(plot, told), _parameters(fit))


def _dots(arm: ArmFacts, slots: dict[float, int]) -> list[Dot]:
    """An arm's finished runs, as the fit takes them."""
    found = []
    for run in arm.runs:
        loss = run.run.metrics.get("val/loss") if run.run.finished else None
        size = arm.row.arm.costs.get("parameters")
        budget = arm.row.arm.costs.get("tokens", run.run.costs.get("tokens"))
        if loss is not None and size and budget:
            told = f"{arm.name}, seed {run.run.seed}: {count(size)} parameters, {count(budget)} tokens, loss {loss:.4f}"
            found.append(Dot(size, loss, slots.get(budget), f"#{run.anchor}", told, 3.6))
    return found


def _number(value: float) -> str:
    return "0" if abs(value) < 1e-6 else f"{value:.4g}"


def _parameters(fit: Fit) -> Markup:
    rows: list[list[Text]] = []
    values = {**{name: getattr(fit.law, name) for name in _SYMBOLS}, "optimal_exponent": fit.law.optimal_exponent}
    for name, value in values.items():
        interval = fit.intervals[name]
        symbol = _SYMBOLS.get(name, "β/(α + β)")
        ends = f"[{_number(interval.low)}, {_number(interval.high)}]"
        rows.append([symbol, every_run_link(_number(value)), every_run_link(ends)])
    return table([Column("parameter", "text"), Column("estimate"), Column("interval")], rows)

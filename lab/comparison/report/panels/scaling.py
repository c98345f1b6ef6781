"""How loss falls with size and data: the fitted law beside the runs that it is of."""

from __future__ import annotations

from markupsafe import Markup

from lab.comparison.report.charts import Dot, Line, chart
from lab.comparison.report.facts import Facts
from lab.comparison.report.given import Given, ScalingFit
from lab.comparison.report.parts import Column, Panel, figure, table, tabs
from lab.comparison.report.scales import counted, scale
from lab.comparison.report.wording import NONE
from lab.units import count

_TITLE = "Scaling"
_LEAD = Markup(
    "Loss over sizes, with the law <i>E</i> + <i>A</i>/<i>N</i><sup>α</sup> + <i>B</i>/<i>D</i><sup>β</sup> "
    "(Hoffmann et al. 2022, approach 3) fitted to the runs."
)
_STEPS = 60
MOST_BUDGETS = 6


def panel(facts: Facts, given: Given) -> Panel:
    if not given.scaling:
        return Panel(
            "scaling",
            _TITLE,
            _LEAD,
            missing=(
                f"{given.why_no_scaling} A sweep over sizes and budgets of tokens fills this.",
                "lab submit SWEEP  # with grid: {model.d_model: [64, 96, 128], train.tokens: [1M, 2M, 4M]}",
            ),
        )
    return Panel("scaling", _TITLE, _LEAD, tabs([(fit.name or "all arms", _fit(facts, fit)) for fit in given.scaling]))


def _fit(facts: Facts, fit: ScalingFit) -> Markup:
    anchors = {(arm.name, run.run.seed): run.anchor for arm in facts.arms for run in arm.runs}
    budgets = sorted({point.tokens for point in fit.points})
    drawn = budgets if len(budgets) <= MOST_BUDGETS else budgets[:: -(-len(budgets) // MOST_BUDGETS)]
    slots = {budget: 1 + place % 7 for place, budget in enumerate(drawn)}
    x = scale([point.parameters for point in fit.points], log=True, label=counted)
    sizes = [x.low * (x.high / x.low) ** (step / _STEPS) for step in range(_STEPS + 1)]
    lines = [
        Line(f"{count(budget)} tokens", slot, sizes, [fit.loss(size, budget) for size in sizes])
        for budget, slot in slots.items()
    ]
    y = scale([point.loss for point in fit.points])
    dots = [
        Dot(
            point.parameters,
            point.loss,
            slots.get(point.tokens),
            f"#{anchors.get((point.arm, point.seed), 'runs')}",
            f"{point.arm}, seed {point.seed}: {count(point.parameters)} parameters, {count(point.tokens)} tokens, "
            f"loss {point.loss:.4f}",
        )
        for point in fit.points
    ]
    key = Markup("").join(
        Markup('<li data-s="{0}"><i class="sw b{0}"></i>{1} tokens</li>').format(slot, count(budget))
        for budget, slot in slots.items()
    )
    plot = chart(x, y, x_title="parameters N", y_title="loss (nats a token)", lines=lines, dots=dots)
    rows = [
        [
            symbol,
            f"{found.value:.4g}",
            NONE if found.low is None or found.high is None else f"[{found.low:.4g}, {found.high:.4g}]",
        ]
        for symbol, found in fit.parameters.items()
    ]
    columns = [Column("parameter", "text"), Column("estimate"), Column("interval")]
    return figure(plot + Markup('<ul class="legend">{}</ul>').format(key), fit.told) + table(columns, rows)

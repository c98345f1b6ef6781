"""Main effects and interactions of a grid's axes."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from lab.comparison.metrics import better, title
from lab.comparison.report.charts import Dot, strip, strip_axis
from lab.comparison.report.facts import Facts
from lab.comparison.report.given import Effect, Factors, Given
from lab.comparison.report.panels.verdicts import decimals
from lab.comparison.report.parts import Panel, figure, tabs
from lab.comparison.report.scales import scale
from lab.comparison.report.wording import fixed

_TITLE = "Main effects and interactions"
_LEAD = "What each axis of the grid does on average over the others, and where two do more, or less, than their sum."


def panel(facts: Facts, given: Given) -> Panel:
    if not given.factors:
        return Panel(
            "effects",
            _TITLE,
            _LEAD,
            missing=(
                f"{given.why_no_factors} A sweep with two axes or more under grid: fills this.",
                "lab submit SWEEP  # with grid: {model/softcap: [none, gemma2], model/qk_norm: [none, rmsnorm]}",
            ),
        )
    return Panel(
        "effects",
        _TITLE,
        _LEAD,
        tabs([(title(factors.metric), _plot(facts, factors)) for factors in given.factors]),
        notes=("Dots are seeds, each a block: an effect is estimated within seeds.",),
    )


def _plot(facts: Facts, factors: Factors) -> Markup:
    every = [*factors.main, *factors.interactions]
    values = [0.0]
    for effect in every:
        values += [*effect.by_seed.values(), effect.estimate]
    spread = max(values) - min(values)
    low, high = min(values) - 0.75 * spread, max(values) + 0.75 * spread
    for effect in every:
        values += [min(max(end, low), high) for end in (effect.low, effect.high) if end is not None]
    axis, n = scale(values, pad=0.03), decimals(facts, factors.metric)
    anchor = facts.baseline.anchor if facts.baseline else "runs"

    def rows(effects: Sequence[Effect], heading: str) -> Markup:
        if not effects:
            return Markup("")
        lines = Markup("").join(
            Markup(
                '<div class="row"><span class="who">{}{}</span>{}'
                '<span class="val"><a class="n" href="#{}">{}</a> {}</span></div>'
            ).format(
                effect.name,
                Markup(' <small class="warn">{}</small>').format(effect.told) if effect.told else "",
                strip(
                    axis,
                    effect.estimate,
                    None if effect.low is None or effect.high is None else (effect.low, effect.high),
                    [
                        Dot(value, 0, None, f"#{anchor}", f"{effect.name}, seed {seed}: {fixed(value, n, signed=True)}")
                        for seed, value in sorted(effect.by_seed.items())
                    ],
                    1,
                ),
                anchor,
                fixed(effect.estimate, n, signed=True),
                Markup('<small class="dim">[{}, {}]</small>').format(
                    fixed(effect.low, n, signed=True), fixed(effect.high, n, signed=True)
                ),
            )
            for effect in effects
        )
        return Markup("<h3>{}</h3>{}").format(heading, lines)

    direction = {"lower": "← better", "higher": "better →", None: ""}[better(factors.metric)]
    return figure(
        Markup('<div class="forest">{}{}<div class="row last"><span></span>{}<span></span></div></div>').format(
            rows(factors.main, "Main effects"), rows(factors.interactions, "Interactions"), strip_axis(axis)
        ),
        Markup("effect on {} <b>{}</b>").format(title(factors.metric), direction),
    )

"""The Markdown for TensorBoard's Text tab: a sweep's question, its plan, and its table."""

from __future__ import annotations

import html
import json
import re

from lab.comparison.compare import Comparison
from lab.comparison.metrics import COST_TITLES, title
from lab.comparison.read.results import BUDGET, COSTS, ArmResults, SweepResults
from lab.comparison.tables.documents import comparison_in_markdown, markdown_table
from lab.comparison.tables.footnotes import footnotes
from lab.comparison.tables.table import MOST_ROWS, omitted_rows, printed_rows
from lab.units import count

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~-])")


def texts_of(comparison: Comparison) -> dict[str, str]:
    """Tag → text: the question, the plan and the table. TensorBoard sorts them by tag."""
    sweep = comparison.sweep
    question = escape(sweep.question) if sweep.question else f"The sweep {escape(sweep.name)} has no question."
    return {"question": question, "the plan": _plan(sweep), "the table": _table(comparison)}


def escape(text: str) -> str:
    """Plain text escaped for TensorBoard's Markdown."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _plan(sweep: SweepResults) -> str:
    matching = f"held equal: {sweep.match}" if sweep.match and sweep.match != "none" else "nothing held equal"
    seeds = sorted({seed for arm in sweep.arms.values() for seed in arm.runs})
    costs = [cost for cost in (*COSTS, *BUDGET) if any(cost in arm.costs for arm in sweep.arms.values())]
    axes = [*sweep.axes, *sweep.tuned]
    heads = [("arm", False), *((escape(axis), False) for axis in axes)]
    heads += [*((COST_TITLES[cost], True) for cost in costs), ("runs", False)]
    rows = (
        [
            f"**{escape(arm.name)}** (baseline)" if arm.name == sweep.baseline else escape(arm.name),
            *(escape(_value(arm, axis)) for axis in axes),
            *(count(arm.costs.get(cost)) for cost in costs),
            ", ".join(f"{n} {status}" for status, n in arm.statuses.items()),
        ]
        for arm in list(sweep.arms.values())[:MOST_ROWS]
    )
    heading = (
        f"Baseline: {escape(sweep.baseline)}; {matching}; seeds {', '.join(map(str, seeds))}; "
        f"metrics: {', '.join(title(metric) for metric in sweep.metrics)}."
    )
    more = len(sweep.arms) - MOST_ROWS
    return f"{heading}\n\n{markdown_table(heads, rows)}" + (f"\n\nand {more} more arms." if more > 0 else "")


def _table(comparison: Comparison) -> str:
    rows = printed_rows(comparison)
    notes = [f"* {escape(line)}" for line in (*omitted_rows(comparison, rows), *footnotes(comparison))]
    return "\n".join([comparison_in_markdown(comparison, rows, escape), "", *notes])


def _value(arm: ArmResults, axis: str) -> str:
    value = arm.settings.get(axis, "")
    return value if isinstance(value, str) else json.dumps(value)

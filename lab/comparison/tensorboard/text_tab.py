"""A sweep in words for TensorBoard's Text tab: its question, what was planned, and the table. In Markdown."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence

from lab.comparison.compare import Cell, Comparison, Row, compare
from lab.comparison.metrics import title
from lab.comparison.read.results import BUDGET, COSTS, Arm, Sweep
from lab.comparison.tables.footnotes import legend, percent
from lab.units import count, measure

MOST_ROWS = 200
"""Of a table; how many more there are is said."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~-])")
_NAMES = {
    "parameters": "parameters",
    "flops_per_token": "FLOPs/token",
    "kv_bytes_per_token": "KV bytes/token",
    "tokens": "tokens",
    "total_flops": "FLOPs in all",
}


def texts_of(sweep: Sweep) -> dict[str, str]:
    """Tag → text: the question, the plan and the table. TensorBoard sorts them by tag."""
    question = plain(sweep.question) if sweep.question else f"The sweep {plain(sweep.name)} states no question."
    return {"question": question, "the plan": _plan(sweep), "the table": _table(compare(sweep))}


def plain(text: str) -> str:
    """Text as Markdown that shows it as it is, whatever it holds."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _plan(sweep: Sweep) -> str:
    held = f"held equal: {sweep.match}" if sweep.match and sweep.match != "none" else "nothing held equal"
    seeds = sorted({seed for arm in sweep.arms.values() for seed in arm.runs})
    costs = [name for name in (*COSTS, *BUDGET) if any(name in arm.costs for arm in sweep.arms.values())]
    axes = [*sweep.axes, *sweep.tuned]
    lines = [
        [
            _arm(arm, sweep.baseline),
            *(plain(_value(arm, axis)) for axis in axes),
            *(count(arm.costs.get(name)) for name in costs),
            _states(arm),
        ]
        for arm in sweep.arms.values()
    ]
    said = (
        f"Baseline: {plain(sweep.baseline)}; {held}; seeds {', '.join(map(str, seeds))}; "
        f"metrics: {', '.join(title(metric) for metric in sweep.metrics)}."
    )
    header = ["arm", *map(plain, axes), *(_NAMES[name] for name in costs), "runs"]
    return f"{said}\n\n{_markdown(header, lines)}"


def _table(comparison: Comparison) -> str:
    metrics = comparison.sweep.metrics
    header = ["arm", "runs"]
    for metric in metrics:
        header += [title(metric), f"difference [{percent(comparison.level)}]", "verdict"]
    lines = [
        [_arm(row.arm, comparison.sweep.baseline), _states(row.arm)]
        + [text for metric in metrics for text in _cell(row.cells[metric], row)]
        for row in comparison.rows
    ]
    notes = "\n".join(f"* {plain(line)}" for line in legend(comparison))
    return f"{_markdown(header, lines)}\n\n{notes}"


def _cell(cell: Cell, row: Row) -> Sequence[str]:
    mean, difference = measure(cell.sample.mean), cell.difference
    if row.is_baseline or difference is None:
        return mean, "baseline" if row.is_baseline else "–", ""
    said = measure(difference.mean, signed=True)
    if difference.interval is not None:
        low, high = difference.interval.low, difference.interval.high
        said += f" [{measure(low, signed=True)}, {measure(high, signed=True)}]"
    return mean, said, plain("; ".join([str(cell.verdict), *cell.remarks]))


def _arm(arm: Arm, baseline: str) -> str:
    return f"**{plain(arm.name)}** (baseline)" if arm.name == baseline else plain(arm.name)


def _states(arm: Arm) -> str:
    return ", ".join(f"{n} {status}" for status, n in arm.statuses.items())


def _value(arm: Arm, axis: str) -> str:
    values = arm.axes | arm.picked
    value = values.get(axis, "")
    return value if isinstance(value, str) else json.dumps(value)


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def row(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    shown = [row(header), row("---" for _ in header), *map(row, lines[:MOST_ROWS])]
    more = len(lines) - MOST_ROWS
    return "\n".join(shown) + (f"\n\n{more} arms more." if more > 0 else "")

"""`lab compare`: a sweep's arms as a table, with how sure its differences are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lab.comparison.audit import percent as signed_percent
from lab.comparison.compare import Cell, Comparison, Row
from lab.comparison.metrics import better, title
from lab.comparison.statistics.paired import PairedDifference
from lab.comparison.tables.footnotes import legend, percent
from lab.units import count, measure

MOST_ROWS = 200
"""A longer table is read by nobody, and takes seconds to lay out; the other rows are counted, and --json has them."""

MOST_SEEDS = 1000
"""Beyond so many seeds that would be needed their number says nothing more."""

_STYLES = {"better": "green", "worse": "red", "different": "bold", "equivalent": "cyan"}
_COSTS = (("parameters", "parameters"), ("flops_per_token", "FLOPs/token"), ("kv_bytes_per_token", "KV bytes/token"))


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print the comparison.

    Without a terminal it is as wide as it needs to be, so that nothing is folded or cut. On a terminal too narrow for
    it, each metric has a table of its own, and the costs another.
    """
    console = console or Console()
    rows = _shown(comparison)
    lines = [Text(line) for line in (*_unshown(comparison, rows), *legend(comparison))]
    shown = Group(_heading(comparison), _table(comparison, rows, comparison.sweep.metrics, costs=True), *lines)
    if not console.is_terminal:
        console.width = max(console.width, _width(shown, console))
    elif _width(shown.renderables[1], console) > console.width:
        apart = [_table(comparison, rows, (metric,), costs=False) for metric in comparison.sweep.metrics]
        shown = Group(_heading(comparison), *apart, _table(comparison, rows, (), costs=True), *lines)
    console.print(shown)


def _heading(comparison: Comparison) -> Text:
    sweep = comparison.sweep
    return Text(sweep.question or sweep.name, style="bold")


def _shown(comparison: Comparison) -> tuple[Row, ...]:
    """The rows to print, in their order: all, or the baseline and the best by the first metric."""
    rows, metric = comparison.rows, comparison.sweep.metrics[0]
    if len(rows) <= MOST_ROWS:
        return rows
    sign = -1 if better(metric) == "higher" else 1

    def rank(row: Row) -> tuple[bool, float]:
        mean = row.cells[metric].sample.mean
        return not row.is_baseline, math.inf if mean is None else sign * mean

    best = {row.arm.name for row in sorted(rows, key=rank)[:MOST_ROWS]}
    return tuple(row for row in rows if row.arm.name in best)


def _unshown(comparison: Comparison, shown: Sequence[Row]) -> list[str]:
    """How many rows there are besides, and what they would have shown that mustn't go unseen."""
    names = {row.arm.name for row in shown}
    others = [row for row in comparison.rows if row.arm.name not in names]
    if not others:
        return []
    metric = comparison.sweep.metrics[0]
    which = f"the best by {title(metric)}" if better(metric) else f"those with the lowest {title(metric)}"
    without = sum(row.arm.statuses.get("finished", 0) < len(row.arm.runs) for row in others)
    lack = f" Without a result for some seed: {without:,} of them." if without else ""
    return [
        f"{len(others):,} arms more: of {len(comparison.rows):,}, the baseline and {which} are shown; "
        f"--json and --csv have all.{lack}"
    ]


def _width(shown: RenderableType, console: Console) -> int:
    """Columns that it takes when nothing is folded."""
    return Measurement.get(console, console.options.update(width=10_000), shown).maximum


def _table(comparison: Comparison, rows: Sequence[Row], metrics: Sequence[str], *, costs: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, right in columns(comparison, metrics, costs=costs):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*cells(comparison, row, metrics, costs=costs))
    return table


def columns(comparison: Comparison, metrics: Sequence[str], *, costs: bool = True) -> list[tuple[str, bool]]:
    """The table's columns: each with whether its numbers stand to the right."""
    found = [("arm", False), ("n", False)]
    for metric in metrics:
        found += [(title(metric), True), (f"difference [{percent(comparison.level)}]", False)]
    return found + [(name, True) for name in [*(name for _, name in _COSTS), "tokens/s"] if costs]


def cells(comparison: Comparison, row: Row, metrics: Sequence[str], *, costs: bool = True) -> list[Text]:
    """One arm's cells, a column each."""
    found = [_name(row, comparison), _states(row)]
    for metric in metrics:
        found += [Text(measure(row.cells[metric].sample.mean)), _difference(row.cells[metric], row)]
    if costs:
        found += [_cost(row, key, comparison) for key, _ in _COSTS] + [Text(count(row.tokens_per_second))]
    return found


def _name(row: Row, comparison: Comparison) -> Text:
    """The arm, marked where it is off the match that the sweep declares."""
    text = Text(row.arm.name)
    declared = comparison.audit.match not in (None, "none")
    if declared and comparison.audit.off(row.arm.name):
        text.append(" (off match)", style="yellow")
    return text


def _cost(row: Row, name: str, comparison: Comparison) -> Text:
    """A cost, and how far it is from the baseline's where that is beyond the tolerance: "1.27M (+3.1%)"."""
    text = Text(count(row.arm.costs.get(name)))
    off = comparison.audit.off(row.arm.name).get(name)
    if off is not None and math.isfinite(off):
        text.append(f" ({signed_percent(off)})", style="yellow")
    return text


def _states(row: Row) -> Text:
    """How many seeds gave a result, and what became of the others: "4 (1 diverged)"."""
    statuses = row.arm.statuses
    text = Text(str(statuses.get("finished", 0)))
    others = ", ".join(f"{n} {status}" for status, n in statuses.items() if status != "finished")
    if others:
        text.append(f" ({others})", style="yellow")
    return text


def _difference(cell: Cell, row: Row) -> Text:
    difference = cell.difference
    if row.is_baseline or difference is None:
        text = Text("baseline" if row.is_baseline else "–", style="dim" if row.is_baseline else "")
    else:
        text = Text(_numbers(difference))
        if said := _verdict(cell):
            # In words too: colours are lost in a pipe, and on many readers.
            text.append(f"{' ' if text else ''}{said}")
        text.stylize(_STYLES.get(cell.verdict or "", ""))
    if cell.diverged:
        text.append(f"{' ' if text else ''}(diverged in {cell.diverged})", style="yellow")
    if difference is not None and difference.remarks:
        text.append(f"{' ' if text else ''}({'; '.join(difference.remarks)})", style="yellow")
    return text


def _numbers(difference: PairedDifference) -> str:
    """`+0.1033 [+0.0800, +0.1266]`."""
    if difference.mean is None:
        return ""
    mean, interval = measure(difference.mean, signed=True), difference.interval
    if interval is None:
        return mean
    return f"{mean} [{measure(interval.low, signed=True)}, {measure(interval.high, signed=True)}]"


def _verdict(cell: Cell) -> str:
    """The verdict, with what would be needed: "can't tell (12 seeds)". None where a remark says why: one pair, none, or
    no difference at all."""
    if cell.p is None or cell.verdict is None or cell.difference is None:
        return ""
    if cell.verdict == "can't tell" and cell.difference.identical:
        return ""
    if cell.seeds_needed is None:
        return cell.verdict
    needed = f"{cell.seeds_needed}" if cell.seeds_needed <= MOST_SEEDS else f"over {MOST_SEEDS:,}"
    return f"{cell.verdict} ({needed} seeds)"

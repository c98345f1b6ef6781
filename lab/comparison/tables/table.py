"""`lab compare`: a sweep's arms as a table, with how certain its differences are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lab.comparison.audit import signed_percent
from lab.comparison.compare import Comparison, ComparisonCell, ComparisonRow
from lab.comparison.metrics import COST_TITLES, better, title
from lab.comparison.read.results import COSTS
from lab.comparison.tables.footnotes import footnotes, with_interval
from lab.units import count, measure, percent

MOST_ROWS = 200
"""Nobody reads a longer table, and it takes seconds to lay out. The other rows are counted, and --json has them."""

MOST_SEEDS = 1000
"""If more seeds than this would be needed, their exact number says nothing more."""

_STYLES = {"better": "green", "worse": "red", "different": "bold", "equivalent": "cyan"}


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print the comparison.

    Without a terminal it is as wide as it needs to be, so that nothing is folded or cut. On a terminal that is too
    narrow for it, each metric has a table of its own, and the costs another.
    """
    console = console or Console()
    rows = printed_rows(comparison)
    heading = Text(comparison.sweep.question or comparison.sweep.name, style="bold")
    lines = [Text(line) for line in (*omitted_rows(comparison, rows), *footnotes(comparison))]
    whole = _table(comparison, rows, comparison.sweep.metrics, costs=True)
    page = Group(heading, whole, *lines)
    if not console.is_terminal:
        console.width = max(console.width, _width(page, console))
    elif _width(whole, console) > console.width:
        parts = [_table(comparison, rows, (metric,), costs=False) for metric in comparison.sweep.metrics]
        page = Group(heading, *parts, _table(comparison, rows, (), costs=True), *lines)
    console.print(page)


def printed_rows(comparison: Comparison) -> tuple[ComparisonRow, ...]:
    """The rows to print, in their order: all, or the baseline and the best by the first metric."""
    rows, metric = comparison.rows, comparison.sweep.metrics[0]
    if len(rows) <= MOST_ROWS:
        return rows
    best = {row.arm.name for row in sorted(rows, key=lambda row: rank(row, metric))[:MOST_ROWS]}
    return tuple(row for row in rows if row.arm.name in best)


def rank(row: ComparisonRow, metric: str) -> tuple[bool, float]:
    """For sorting: the baseline first, then the arms from the best mean on, those without a mean last."""
    mean = row.cells[metric].sample.mean
    sign = -1 if better(metric) == "higher" else 1
    return not row.is_baseline, math.inf if mean is None else sign * mean


def omitted_rows(comparison: Comparison, printed: Sequence[ComparisonRow]) -> list[str]:
    """How many rows aren't printed, and how many of them lack a result."""
    names = {row.arm.name for row in printed}
    others = [row.arm for row in comparison.rows if row.arm.name not in names]
    if not others:
        return []
    metric = comparison.sweep.metrics[0]
    which = f"the best by {title(metric)}" if better(metric) else f"those with the lowest {title(metric)}"
    incomplete = sum(arm.finished < len(arm.runs) for arm in others)
    remark = f" Without a result for some seed: {incomplete:,} of them." if incomplete else ""
    return [
        f"{len(others):,} arms more: of {len(comparison.rows):,}, the baseline and {which} are shown; "
        f"--json and --csv have all.{remark}"
    ]


def _width(content: RenderableType, console: Console) -> int:
    """How many columns it takes when nothing is folded."""
    return Measurement.get(console, console.options.update(width=10_000), content).maximum


def _table(comparison: Comparison, rows: Sequence[ComparisonRow], metrics: Sequence[str], *, costs: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, is_number in columns(comparison, metrics, costs=costs):
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*cells(comparison, row, metrics, costs=costs))
    return table


def columns(comparison: Comparison, metrics: Sequence[str], *, costs: bool = True) -> list[tuple[str, bool]]:
    """The table's columns, each with whether its numbers are aligned to the right."""
    heads = [("arm", False), ("n", False)]
    for metric in metrics:
        heads += [(title(metric), True), (f"difference [{percent(comparison.level)}]", False)]
    return heads + [(COST_TITLES[cost], True) for cost in (*COSTS, "tokens_per_second") if costs]


def cells(comparison: Comparison, row: ComparisonRow, metrics: Sequence[str], *, costs: bool = True) -> list[Text]:
    """One arm's cells, one for each column."""
    texts = [_name(row, comparison), _seeds(row)]
    for metric in metrics:
        texts += [Text(measure(row.cells[metric].sample.mean)), _difference(row.cells[metric], row)]
    if costs:
        texts += [_cost(row, cost, comparison) for cost in COSTS] + [Text(count(row.tokens_per_second))]
    return texts


def _name(row: ComparisonRow, comparison: Comparison) -> Text:
    """The arm, marked if it is off the match that the sweep declares."""
    text = Text(row.arm.name)
    if comparison.audit.is_matched and comparison.audit.mismatches(row.arm.name):
        text.append(" (off match)", style="yellow")
    return text


def _cost(row: ComparisonRow, cost: str, comparison: Comparison) -> Text:
    """A cost, and how far it is from the baseline's if that is beyond the tolerance: "1.27M (+3.1%)"."""
    text = Text(count(row.arm.costs.get(cost)))
    deviation = comparison.audit.mismatches(row.arm.name).get(cost)
    if deviation is not None and math.isfinite(deviation):
        text.append(f" ({signed_percent(deviation)})", style="yellow")
    return text


def _seeds(row: ComparisonRow) -> Text:
    """How many seeds gave a result, and the status of the others: "4 (1 diverged)"."""
    text = Text(str(row.arm.finished))
    others = ", ".join(f"{n} {status}" for status, n in row.arm.statuses.items() if status != "finished")
    if others:
        text.append(f" ({others})", style="yellow")
    return text


def _difference(cell: ComparisonCell, row: ComparisonRow) -> Text:
    difference = cell.difference
    if row.is_baseline:
        text = Text("baseline", style="dim")
    elif difference is None:
        text = Text("–")
    else:
        # The verdict is a word besides its colour: colours are lost in a pipe, and on many readers.
        numbers = "" if difference.mean is None else with_interval(difference.mean, difference.interval)
        text = Text(" ".join(filter(None, (numbers, _verdict(cell)))), style=_STYLES.get(cell.verdict or "", ""))
    if cell.diverged:
        text.append(f"{' ' if text else ''}(diverged in {cell.diverged})", style="yellow")
    if difference is not None and difference.remarks:
        text.append(f"{' ' if text else ''}({'; '.join(difference.remarks)})", style="yellow")
    return text


def _verdict(cell: ComparisonCell) -> str:
    """The verdict, with the seeds that would give one: "can't tell (12 seeds)". Empty if a remark says enough: that
    there is one pair or none, or no difference at all."""
    if cell.p is None or cell.verdict is None or cell.difference is None:
        return ""
    if cell.verdict == "can't tell" and cell.difference.identical:
        return ""
    if cell.seeds_needed is None:
        return cell.verdict
    needed = f"{cell.seeds_needed}" if cell.seeds_needed <= MOST_SEEDS else f"over {MOST_SEEDS:,}"
    return f"{cell.verdict} ({needed} seeds)"

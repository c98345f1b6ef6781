"""The table of `lab compare`: a sweep's arms, their differences from the baseline, and how certain these are."""

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
from lab.comparison.read.results import BUDGET, COSTS
from lab.comparison.tables.footnotes import footnotes, with_interval
from lab.terminal import plain_console
from lab.units import count, measure, percent

MOST_ROWS = 200
"""A longer table is unreadable and takes seconds to lay out. The other rows are counted, and --json has them."""

MOST_SEEDS_SHOWN = 1000
"""Larger numbers of needed seeds are shown as "over 1,000"."""

METRIC_COLUMNS = ("mean", "sd", "difference", "p")
"""The columns that a table can have for each metric: `p` is corrected for the number of arms."""

ARM_COLUMNS = ("n", *COSTS, *BUDGET, "tokens_per_second", "mfu")
"""The columns that a table can have for each arm."""

DEFAULT_COLUMNS = ("n", "mean", "difference", *COSTS, "tokens_per_second")

_STYLES = {"better": "green", "worse": "red", "different": "bold", "equivalent": "cyan"}


def show(comparison: Comparison, console: Console | None = None, *, chosen: Sequence[str] = DEFAULT_COLUMNS) -> None:
    """Print the comparison, with the chosen columns.

    Without a terminal the table is as wide as its content, so that nothing is folded or cut. If a terminal is too
    narrow for the table, each metric gets its own table, and so do the costs.
    """
    console = console or plain_console()
    rows = printed_rows(comparison)
    heading = Text(comparison.sweep.question or comparison.sweep.name, style="bold")
    lines = [Text(line) for line in (*omitted_rows(comparison, rows), *footnotes(comparison))]
    full_table = _table(comparison, rows, comparison.sweep.metrics, chosen)
    page = Group(heading, full_table, *lines)
    if not console.is_terminal:
        console.width = max(console.width, _width(page, console))
    elif _width(full_table, console) > console.width:
        of_metrics = [name for name in chosen if name in METRIC_COLUMNS or name == "n"]
        of_arms = [name for name in chosen if name in ARM_COLUMNS]
        parts = [_table(comparison, rows, (metric,), of_metrics) for metric in comparison.sweep.metrics]
        page = Group(heading, *parts, *([_table(comparison, rows, (), of_arms)] if of_arms else []), *lines)
    console.print(page)


def printed_rows(comparison: Comparison) -> tuple[ComparisonRow, ...]:
    """The rows to print, in the sweep's order: all, or the baseline and the best arms by the first metric."""
    rows, metric = comparison.rows, comparison.metric
    if len(rows) <= MOST_ROWS:
        return rows
    best = {row.arm.name for row in sorted(rows, key=lambda row: rank(row, metric))[:MOST_ROWS]}
    return tuple(row for row in rows if row.arm.name in best)


def rank(row: ComparisonRow, metric: str) -> tuple[bool, float]:
    """Sort key: the baseline first, then the arms from the best mean to the worst, arms without a mean last."""
    mean = row.cells[metric].sample.mean
    sign = -1 if better(metric) == "higher" else 1
    return not row.is_baseline, math.inf if mean is None else sign * mean


def omitted_rows(comparison: Comparison, printed: Sequence[ComparisonRow]) -> list[str]:
    """A line with the number of rows that aren't printed; empty if all are."""
    names = {row.arm.name for row in printed}
    others = [row.arm for row in comparison.rows if row.arm.name not in names]
    if not others:
        return []
    metric = comparison.metric
    rule = f"the best by {title(metric)}" if better(metric) else f"those with the lowest {title(metric)}"
    incomplete = sum(arm.finished < len(arm.runs) for arm in others)
    remark = f" {incomplete:,} of them lack a result for some seed." if incomplete else ""
    return [
        f"{len(others):,} more arms: of {len(comparison.rows):,}, the baseline and {rule} are shown; "
        f"--json and --csv have all.{remark}"
    ]


def _width(content: RenderableType, console: Console) -> int:
    """The width of the content in characters if nothing is folded."""
    return Measurement.get(console, console.options.update(width=10_000), content).maximum


def _table(
    comparison: Comparison, rows: Sequence[ComparisonRow], metrics: Sequence[str], chosen: Sequence[str]
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, is_number in columns(comparison, metrics, chosen):
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*cells(comparison, row, metrics, chosen))
    return table


def columns(
    comparison: Comparison, metrics: Sequence[str], chosen: Sequence[str] = DEFAULT_COLUMNS
) -> list[tuple[str, bool]]:
    """The title of each column, and whether it is aligned to the right. The first is always the arm's name."""
    heads = [("arm", False), *([("n", False)] if "n" in chosen else [])]
    for metric in metrics:
        titles = {
            "mean": (title(metric), True),
            "sd": ("s.d.", True),
            "difference": (f"difference [{percent(comparison.level)}]", False),
            "p": ("p (Holm)", True),
        }
        heads += [titles[name] for name in METRIC_COLUMNS if name in chosen]
    return heads + [(COST_TITLES[name], True) for name in ARM_COLUMNS[1:] if name in chosen]


def cells(
    comparison: Comparison, row: ComparisonRow, metrics: Sequence[str], chosen: Sequence[str] = DEFAULT_COLUMNS
) -> list[Text]:
    """One arm's cells, one for each column."""
    texts = [_name(row, comparison), *([_seeds(row)] if "n" in chosen else [])]
    for metric in metrics:
        cell = row.cells[metric]
        numbers = {
            "mean": Text(measure(cell.sample.mean)),
            "sd": Text(measure(cell.sample.sd)),
            "difference": _difference(cell, row),
            "p": Text("" if cell.p_holm is None else f"{cell.p_holm:.2g}"),
        }
        texts += [numbers[name] for name in METRIC_COLUMNS if name in chosen]
    return texts + [_cost(row, name, comparison) for name in ARM_COLUMNS[1:] if name in chosen]


def _name(row: ComparisonRow, comparison: Comparison) -> Text:
    """The arm's name, marked if the arm isn't matched as the sweep declares, or mixes runs of different kinds."""
    text = Text(row.arm.name)
    if row.mixtures:
        text.append(f" (mixed {', '.join(mixture.subject for mixture in row.mixtures)})", style="yellow")
    if comparison.audit.is_matched and comparison.audit.mismatches(row.arm.name):
        text.append(" (off match)", style="yellow")
    return text


def _cost(row: ComparisonRow, cost: str, comparison: Comparison) -> Text:
    """A cost, followed by its deviation from the baseline's if that exceeds the tolerance: "1.27M (+3.1%)"."""
    if cost == "mfu":
        return Text("–" if row.mfu is None else f"{row.mfu:.1%}")
    text = Text(count(row.tokens_per_second if cost == "tokens_per_second" else row.arm.costs.get(cost)))
    deviation = comparison.audit.mismatches(row.arm.name).get(cost)
    if deviation is not None and math.isfinite(deviation):
        text.append(f" ({signed_percent(deviation)})", style="yellow")
    return text


def _seeds(row: ComparisonRow) -> Text:
    """The number of finished seeds, and the status of the others: "4 (1 diverged)"."""
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
        # The verdict is also written out: a pipe drops colours, and not every reader can tell them apart.
        numbers = "" if difference.mean is None else with_interval(difference.mean, difference.interval)
        text = Text(" ".join(filter(None, (numbers, _verdict(cell)))), style=_STYLES.get(cell.verdict or "", ""))
    if cell.diverged:
        text.append(f"{' ' if text else ''}(diverged in {cell.diverged})", style="yellow")
    if cell.pair_remarks:
        text.append(f"{' ' if text else ''}({'; '.join(cell.pair_remarks)})", style="yellow")
    return text


def _verdict(cell: ComparisonCell) -> str:
    """The verdict, with the number of seeds that it needs: "can't tell (12 seeds)".

    Empty if there are fewer than two pairs or no difference on any seed: a remark says so already.
    """
    if cell.p is None or cell.verdict is None or cell.difference is None:
        return ""
    if cell.verdict == "can't tell" and cell.difference.identical:
        return ""
    if cell.seeds_needed is None:
        return cell.verdict
    needed = f"{cell.seeds_needed}" if cell.seeds_needed <= MOST_SEEDS_SHOWN else f"over {MOST_SEEDS_SHOWN:,}"
    return f"{cell.verdict} ({needed} seeds)"

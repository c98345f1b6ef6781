"""`lab compare`: a sweep's arms as a table, with how sure its differences are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lab.comparison.metrics import better, title
from lab.comparison.rows import LOSS, Cell, Comparison, Row
from lab.units import count, measure

_STYLES = {"better": "green", "worse": "red", "different": "bold", "unclear": "", None: ""}
_COSTS = (("parameters", "parameters"), ("flops_per_token", "FLOPs/token"), ("kv_bytes_per_token", "KV bytes/token"))


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print the comparison.

    Without a terminal it is as wide as it needs to be, so that nothing is folded or cut. On a terminal too narrow for
    it, each metric has a table of its own, and the costs another.
    """
    console = console or Console()
    shown = Group(_heading(comparison), _table(comparison, comparison.sweep.metrics, costs=True), *_lines(comparison))
    if not console.is_terminal:
        console.width = max(console.width, _width(shown, console))
    elif _width(shown.renderables[1], console) > console.width:
        apart = [_table(comparison, (metric,), costs=False) for metric in comparison.sweep.metrics]
        shown = Group(_heading(comparison), *apart, _table(comparison, (), costs=True), *_lines(comparison))
    console.print(shown)


def _heading(comparison: Comparison) -> Text:
    sweep = comparison.sweep
    return Text(sweep.question or sweep.name, style="bold")


def _lines(comparison: Comparison) -> list[Text]:
    return [Text(line) for line in _legend(comparison)]


def _width(shown: RenderableType, console: Console) -> int:
    """Columns that it takes when nothing is folded."""
    return Measurement.get(console, console.options.update(width=10_000), shown).maximum


def _table(comparison: Comparison, metrics: Sequence[str], *, costs: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", overflow="fold")
    table.add_column("n", overflow="fold")
    for metric in metrics:
        table.add_column(title(metric), justify="right", overflow="fold")
        table.add_column(f"difference [{_percent(comparison.level)}]", overflow="fold")
    for name in [name for _, name in _COSTS] + ["tokens/s"] if costs else []:
        table.add_column(name, justify="right", overflow="fold")
    for row in comparison.rows:
        cells = [Text(row.arm.name), _states(row)]
        for metric in metrics:
            cells += [Text(measure(row.cells[metric].sample.mean)), _difference(row.cells[metric], row)]
        if costs:
            cells += [Text(count(row.arm.costs.get(key))) for key, _ in _COSTS] + [Text(count(row.tokens_per_second))]
        table.add_row(*cells)
    return table


def _states(row: Row) -> Text:
    """How many seeds gave a result, and what became of the others: "4 (1 diverged)"."""
    statuses = row.arm.statuses
    text = Text(str(statuses.get("finished", 0)))
    others = ", ".join(f"{n} {status}" for status, n in statuses.items() if status != "finished")
    if others:
        text.append(f" ({others})", style="yellow")
    return text


def _difference(cell: Cell, row: Row) -> Text:
    if row.is_baseline:
        return Text("baseline", style="dim")
    difference = cell.difference
    if difference is None:
        return Text("–")
    text = Text()
    if difference.mean is not None:
        text.append(measure(difference.mean, signed=True))
    if difference.interval is not None:
        low, high = (measure(end, signed=True) for end in (difference.interval.low, difference.interval.high))
        text.append(f" [{low}, {high}]")
    if cell.verdict != "unclear":
        # In words too: colours are lost in a pipe, and on many readers.
        text.append(f" {cell.verdict}")
    text.stylize(_STYLES[cell.verdict])
    if difference.remarks:
        text.append(f"{' ' if text else ''}({'; '.join(difference.remarks)})", style="yellow")
    return text


def _legend(comparison: Comparison) -> Iterator[str]:
    sweep = comparison.sweep
    yield (
        f"Difference: arm less baseline ({sweep.baseline}), mean over the seeds that finished in the two, "
        f"with its {_percent(comparison.level)} paired t interval."
    )
    compared = sum(not row.is_baseline for row in comparison.rows)
    number = f" The intervals are not corrected for their number, {compared} a metric." if compared > 1 else ""
    yield f"Green and better, red and worse: the interval excludes 0.{number}"
    directions = []
    for metric in sweep.metrics:
        direction = better(metric)
        directions.append(
            f"{direction} {title(metric)} is better"
            if direction
            else f"{title(metric)}: which direction is better isn't known"
        )
    said = "; ".join(directions)
    yield said[:1].upper() + said[1:] + "."
    if sweep.baseline not in sweep.arms:
        yield f"The baseline {sweep.baseline} has no runs: there is nothing to compare with."
    for metric in sweep.metrics:
        yield from _gaps(comparison, metric)
    yield from _unigram(comparison)
    if sweep.match and sweep.match != "none":
        yield f"Held equal over the arms: {sweep.match}."
    if sweep.left_out:
        yield f"Left out: {_runs(len(sweep.left_out))}, not in the plan or replaced by a newer one of the same seed."
    for path, problem in sweep.broken:
        yield f"Can't be read: {path} ({problem})."


def _gaps(comparison: Comparison, metric: str) -> Iterator[str]:
    """Finished runs that a mean doesn't hold."""
    for row in comparison.rows:
        found, finished = row.cells[metric].sample, row.arm.statuses.get("finished", 0)
        if found.not_finite:
            seeds = ", ".join(map(str, found.not_finite))
            yield f"{row.arm.name}: {title(metric)} is not finite for seed {seeds}, the mean is of the other {found.n}."
        absent = finished - found.n - len(found.not_finite)
        if absent:
            yield f"{row.arm.name}: {_runs(absent)} of {finished} finished without a {title(metric)}."


def _unigram(comparison: Comparison) -> Iterator[str]:
    """How far the arms are below the loss of counting tokens: an arm that isn't has learnt next to nothing."""
    if comparison.unigram_loss is None:
        return
    low, high = comparison.unigram_loss
    yardstick = measure(low) if high - low < 5e-5 else f"{measure(low)} to {measure(high)}"
    said = f"Unigram loss (a model that only counts tokens): {yardstick} nats per token"
    means = {row.arm.name: row.cells[LOSS].sample.mean for row in comparison.rows if LOSS in row.cells}
    below = {name: low - mean for name, mean in means.items() if mean is not None}
    if below:
        least, most = measure(min(below.values())), measure(max(below.values()))
        if min(below.values()) > 0:
            said += f"; the arms are {least if least == most else f'{least} to {most}'} below it"
        else:
            above = [f"{name} by {measure(-gap)}" for name, gap in below.items() if gap <= 0]
            said += f"; NOT below it: {', '.join(above)}"
    yield said + "."


def _runs(n: int) -> str:
    return f"{n} run" if n == 1 else f"{n} runs"


def _percent(level: float) -> str:
    return f"{100 * level:g}%"

"""Prints a plan: the question, one row for each arm, and notes on whether the arms can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.planning.forecast.budget import BudgetFit
from lab.planning.forecast.detectable import Detectable
from lab.planning.show.notes import notes, signed_percent, unit_of
from lab.planning.show.preview import NEW, PlanPreview, difference_line
from lab.units import count, duration, measure

ROWS = 40
WIDE = 132
"""The width of the terminal, in columns, from which the differences get a column of their own."""
_LONG_NAME = 40


def print_plan(preview: PlanPreview, console: Console, *, everything: bool = False) -> None:
    """Print the plan. At most ROWS arms, unless `everything`."""
    plan = preview.plan
    arms = list(preview.runs)
    listed_arms = arms if everything or len(arms) <= ROWS else _first(arms, plan.baseline)
    console.print(Text(plan.question or plan.sweep, style="bold"))
    console.print(Text(_header(preview)))
    console.print(_table(preview, listed_arms, wide=console.width >= WIDE))
    print_hidden(len(arms) - len(listed_arms), console)
    print_notes(notes(preview), console)
    if preview.fit is not None:
        _print_fit(preview.fit, preview.power, console)


def print_hidden(number: int, console: Console) -> None:
    """Say how many arms a table leaves out."""
    if number:
        console.print(Text(f"… and {number:,} more arms; --all shows them"))


def print_notes(lines: Iterable[str], console: Console) -> None:
    """Print lines as a bulleted list; long lines are wrapped and indented."""
    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("·", Text(line))
    console.print(grid)


def _first(arms: list[str], baseline: str) -> list[str]:
    """The arms of the first rows, which include the baseline."""
    listed = set(arms[:ROWS]) if baseline in arms[:ROWS] else {*arms[: ROWS - 1], baseline}
    return [arm for arm in arms if arm in listed]


def _header(preview: PlanPreview) -> str:
    """`8 runs (4 arms × 2 seeds): 6 new, 2 finished · 5.32TFLOPs in all · about 4 min here, 2 at once`."""
    runs = [run for runs_of_arm in preview.runs.values() for run in runs_of_arm]
    tuning = sum(run.role == "tune" for run in runs)
    size = f"{_number(len(preview.arms), 'arm')} × {_number(preview.power.seeds, 'seed')}"
    if tuning:
        size = f"{tuning:,} tune, {len(runs) - tuning:,} report: {size}"
    states = preview.states_of(runs)
    new_first = Counter({NEW: states[NEW], **states}) if states[NEW] else states
    parts = [
        f"{_number(len(runs), 'run')} ({size}): {', '.join(_states(new_first))}",
        f"{count(sum(run.total_flops for run in runs))}FLOPs in all",
    ]
    left = preview.time_left(runs)
    if left is not None and left[0]:
        at_once = f", {preview.parallel} at once" if preview.parallel > 1 else ""
        seconds, low, high = map(duration, left)
        parts.append(f"about {seconds} to go here ({low} to {high}){at_once}")
    return " · ".join(parts)


def _table(preview: PlanPreview, arms: list[str], *, wide: bool) -> Table:
    """One row for each arm. The differences have a column, or stand below the arm's name in a narrow terminal."""
    plan, matching = preview.plan, preview.plan.matching
    estimated = any(estimate.basis != "unknown" for estimate in preview.estimates.values())
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1) if wide else (0, 1, 0, 0), pad_edge=False)
    whole = wide and max(map(len, arms), default=0) <= _LONG_NAME
    table.add_column("arm", overflow="fold", min_width=12, no_wrap=whole)
    if wide:
        table.add_column("differs from the baseline", overflow="fold", min_width=24)
    kv_bytes = "KV bytes\n/token" if wide else "KV B\n/token"
    numeric = ["seeds", "param-\neters", "FLOPs\n/token", "FLOPs\nin all", kv_bytes]
    for column in numeric + (["memory", "time"] if estimated else []):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    base = preview.first(plan.baseline).costs.flops_per_token
    for arm in arms:
        runs, first, is_baseline = preview.runs[arm], preview.first(arm), arm == plan.baseline
        differs = "baseline" if is_baseline else difference_line(preview.differences(arm))
        seeds = Counter(run.role for run in runs)
        more_parameters = None if is_baseline else matching.parameter_deviations.get(arm, 0.0)
        more_flops = None if is_baseline else first.costs.flops_per_token / base - 1
        cells = [
            f"{seeds['tune']}+{seeds['report']}" if seeds["tune"] else str(seeds["report"]),
            _with_deviation(first.costs.parameters, more_parameters, wide),
            _with_deviation(first.costs.flops_per_token, more_flops, wide),
            count(sum(run.total_flops for run in runs)),
            count(first.costs.kv_bytes_per_token),
        ]
        if estimated:
            estimate = preview.estimates[first.identity]
            about = "~" if estimate.basis == "scaled" else ""
            cells += [
                "–" if estimate.memory_bytes is None else f"{about}{count(estimate.memory_bytes)}B",
                "–" if estimate.seconds is None else f"{about}{duration(estimate.seconds)}",
            ]
        name = Text(arm, style="bold" if is_baseline else "")
        if not wide:
            name.append(f"\n{differs}", style="not bold dim")
        columns = [name, Text(differs, style="dim")] if wide else [name]
        table.add_row(*columns, *cells, "\n".join(_states(preview.states_of(runs))))
    return table


def _with_deviation(value: float, deviation: float | None, wide: bool) -> str:
    """A value with its deviation, `822k +5.7%`, on two lines if the terminal is narrow."""
    return count(value) if deviation is None else f"{count(value)}{' ' if wide else chr(10)}{signed_percent(deviation)}"


def _print_fit(fit: BudgetFit, power: Detectable, console: Console) -> None:
    """Print the seeds and tokens that fit into the budget."""
    unit = unit_of(power)
    console.print()
    basis = f" (speed: {fit.basis})" if fit.basis else ""
    console.print(Text(f"{fit.budget.text} is {1 / fit.needed:.3g} times the cost of this sweep{basis}", style="bold"))
    if fit.own is not None:
        effect = f", detecting {measure(fit.own.effect)}{unit}" if fit.own.effect is not None else ""
        console.print(Text(f"with its own {count(fit.own.tokens)} tokens: {fit.own.seeds:,} seeds{effect}"))
    else:
        console.print(Text("with its own tokens, not even two seeds fit"))
    if not fit.choices:
        console.print(Text("even with two seeds, no number of tokens fits that the schedule allows"))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("seeds", "tokens", "smallest detectable effect", "of the budget"):
        table.add_column(column, justify="right", no_wrap=True)
    for choice in fit.choices:
        effect = "unknown" if choice.effect is None else f"{measure(choice.effect)}{unit}"
        table.add_row(str(choice.seeds), count(choice.tokens), effect, f"{choice.used:.0%}")
    console.print(table)
    if power.noise.sd is not None:
        console.print(Text("The noise is assumed not to depend on the number of tokens."))


def _states(states: Counter[str]) -> list[str]:
    return [f"{number:,} {state}" for state, number in states.items()]


def _number(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"

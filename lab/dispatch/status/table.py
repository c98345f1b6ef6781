"""Where runs stand, as a table, lines and totals for a person: as wide as there is room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lab.dispatch.status.status import Row, counts
from lab.dispatch.worker.attempt import REFUSED_BECAUSE
from lab.records.state import Failure, Status

STYLES: dict[Status, str] = {
    "running": "cyan",
    "failed": "red",
    "lost": "red",
    "preempted": "yellow",
    "cancelled": "yellow",
    "diverged": "magenta",
    "queued": "dim",
    "blocked": "dim",
    "finished": "green",
}
"""In the order of what a person wants to see where not everything fits."""

KINDS: dict[Failure, str] = {
    "out_of_memory": "out of memory",
    "disk_full": "disk full",
    "time": "time limit",
    "bug": "bug",
    "interrupted": "worker gone",
    "node_lost": "node lost",
    "cancelled": "job cancelled",
}
"""Failures in words."""

MOST_ROWS = 200
"""A longer table is read by nobody, and takes seconds to lay out."""

TROUBLES = ("failed", "lost", "diverged", "blocked")
_WIDE = 115  # columns of a screen on which a table fits with a column for each thing


def print_rows(
    rows: Sequence[Row],
    broken: Sequence[tuple[Path, str]] = (),
    notes: Sequence[str] = (),
    *,
    console: Console | None = None,
) -> None:
    """Print rows, all of them or the MOST_ROWS that matter most, and below them why some have no result.

    Args:
        broken: folders that can't be read, each with the reason.
        notes: lines on what could not be found out.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)  # nobody's window: what reads it must not lose columns
    shown = _foremost(rows, MOST_ROWS)
    if shown:
        console.print(table(shown, console.width))
    if len(shown) < len(rows):
        console.print(Text(f"… and {len(rows) - len(shown):,} more; `lab status --json` has all"), soft_wrap=True)
    console.print(Text(totals(rows)), soft_wrap=True)
    for each in shown:
        if each.status in TROUBLES or (each.reason or "").startswith(REFUSED_BECAUSE):
            console.print(trouble(each), soft_wrap=True)
    for path, reason in broken:
        console.print(Text(f"{path}: broken, {reason}", STYLES["failed"]), soft_wrap=True)
    for note in notes:
        console.print(Text(f"note: {note}", "yellow"), soft_wrap=True)


def table(rows: Sequence[Row], width: int) -> Table:
    """A row a run: a column for each thing on a wide screen; on a narrow one, in a few words, what matters of it now.

    Args:
        width: columns of the screen.
    """
    several = len({each.sweep for each in rows}) > 1
    jobs = any(each.job is not None for each in rows)
    wide = width >= _WIDE
    made = Table() if wide else Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("sweep", "arm") if several else ("arm",):
        made.add_column(heading, overflow="fold")
    made.add_column("seed", justify="right")
    made.add_column("state", no_wrap=True)
    if jobs:
        made.add_column("job", no_wrap=True)
    if wide:
        made.add_column("", min_width=12)
        for heading in ("step", "loss", "tokens/s", "to go"):
            made.add_column(heading, justify="right")
        made.add_column("now", overflow="fold", max_width=40)
    else:
        made.add_column("", overflow="fold")
    for each in rows:
        made.add_row(
            *([Text(each.sweep)] if several else []),
            Text(_arm(each)),
            "" if each.seed is None else str(each.seed),
            Text(each.status, STYLES[each.status]),
            *([Text(each.job or "")] if jobs else []),
            *(_columns(each) if wide else [Text("  ".join(_words(each)))]),
        )
    return made


def _columns(each: Row) -> list[Text | ProgressBar]:
    return [
        ProgressBar(total=1.0, completed=share(each), width=12),
        Text(f"{each.step:,}/{each.steps:,}" if each.step is not None else ""),
        Text(_number(each.loss, ".4f")),
        Text(_number(each.tokens_per_second, ",.0f")),
        Text(duration(each.eta) if each.eta is not None else ""),
        Text(_now(each)),
    ]


def _words(each: Row) -> list[str]:
    """What matters of a run where there is little room."""
    words = []
    if each.status in ("running", "preempted") and each.step is not None and each.steps:
        words.append(f"{each.step:,}/{each.steps:,}")
    if each.tokens_per_second is not None:
        words.append(f"{_number(each.tokens_per_second, ',.0f')} tok/s")
    if each.eta is not None:
        words.append(f"{duration(each.eta)} to go")
    if each.loss is not None and each.status in ("finished", "diverged"):
        words.append(f"loss {each.loss:.4f}")
    return [*words, _now(each)] if _now(each) else words


def _now(each: Row) -> str:
    """How a run is, in a word or two: when it was last seen alive, why it waits, what kind of failure it was."""
    if each.status == "running":
        return f"seen {duration(each.heartbeat_age)} ago" if each.heartbeat_age is not None else ""
    if each.status in ("failed", "lost"):
        return KINDS[each.failure] if each.failure else ""
    return each.waits_for or ""


def line(each: Row) -> str:
    """All that matters of a run, in a line."""
    parts = [each.run, each.status]
    if each.status == "running" and each.attempts > 1:
        parts.append(f"attempt {each.attempts}")
    if each.job is not None and each.status != "finished":
        parts.append(f"job {each.job}")
    if each.step and each.steps:
        parts.append(f"step {each.step:,}/{each.steps:,} ({100 * each.step // each.steps}%)")
    if each.loss is not None:
        parts.append(f"loss {each.loss:.4f}")
    if each.tokens_per_second is not None:
        parts.append(f"{_number(each.tokens_per_second, ',.0f')} tokens/s")
    if each.eta is not None:
        parts.append(f"{duration(each.eta)} to go")
    if _now(each) and each.status != "running":
        parts.append(_now(each))
    if each.reason and each.status != "running":
        parts.append(each.reason)
    return "  ".join(parts)


def trouble(each: Row) -> Text:
    """Why a run has no result."""
    kind = f" ({KINDS[each.failure]})" if each.failure and each.status in ("failed", "lost") else ""
    return Text(f"{each.run}: {each.status}{kind}" + (f", {each.reason}" if each.reason else ""), STYLES[each.status])


def totals(rows: Sequence[Row]) -> str:
    """How many runs stand where."""
    found = counts(rows)
    head = "1 run: " if len(rows) == 1 else f"{len(rows)} runs" + (": " if rows else "")
    return head + ", ".join(f"{found[status]} {status}" for status in STYLES if status in found)


def share(each: Row) -> float:
    """How much of its budget a run has done, 0 to 1."""
    if each.status == "finished":
        return 1.0
    return each.step / each.steps if each.step and each.steps else 0.0


def duration(seconds: float) -> str:
    """Seconds for a person: 42 s, 3:05, 2:03:05, 3 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    if whole < 86400:
        return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _foremost(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows, in their order: those that a person wants to see first."""
    rank = {status: number for number, status in enumerate(STYLES)}
    kept = sorted(range(len(rows)), key=lambda number: rank[rows[number].status])[:most]
    return [rows[number] for number in sorted(kept)]


def _arm(each: Row) -> str:
    """The arm as its folder is called: with the values that a tuning run tries, as arms have several of those."""
    return each.run.split("/")[-2]


def _number(value: float | None, form: str) -> str:
    if value is None:
        return ""
    return format(value, form) if math.isfinite(value) else str(value)

"""The status of runs as a table that fits the screen, as one line per run, and as totals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lab.dispatch.status.status import StatusRow, counts
from lab.records import Failure, Phase, Status
from lab.terminal import WIDE, plain_console
from lab.units import plural

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
"""Status → style, the most important statuses first."""

FAILURES: dict[Failure, str] = {
    "out_of_memory": "out of memory",
    "disk_full": "disk full",
    "time": "time limit",
    "bug": "bug",
    "interrupted": "worker gone",
    "node_lost": "node lost",
    "cancelled": "job cancelled",
    "other_code": "other code",
    "refused": "refused",
}
"""Kind of failure → its name in tables."""

MOST_ROWS = 200
"""A longer table takes seconds to lay out."""

_ACTIVITIES: dict[Phase | str, str] = {
    "start-up": "starting",
    "building": "building native kernels",
    "validation": "validating",
    "checkpoints": "writing a checkpoint",
}
"""Phase → what the run is doing."""

_TROUBLES = ("failed", "lost", "diverged", "blocked")
_WIDE = 115  # columns of a screen that is wide enough for the full table


def print_rows(
    rows: Sequence[StatusRow],
    broken: Sequence[tuple[Path, str]] = (),
    notes: Sequence[str] = (),
    *,
    console: Console | None = None,
) -> None:
    """Print the rows, or the MOST_ROWS most important ones, and the reasons why runs have no result.

    Args:
        broken: folders that can't be read, with the reasons.
        notes: lines on what couldn't be found out.
    """
    console = console or plain_console()
    if not console.is_terminal:
        console.width = max(console.width, WIDE)  # a program that reads the output must not lose columns
    shown_rows = foremost(rows, MOST_ROWS)
    if shown_rows:
        console.print(table(shown_rows, console.width))
    if len(shown_rows) < len(rows):
        console.print(Text(f"… and {len(rows) - len(shown_rows):,} more; `lab status --json` has all"), soft_wrap=True)
    console.print(Text(totals(rows)), soft_wrap=True)
    for row in shown_rows:
        if has_trouble(row):
            console.print(trouble(row), soft_wrap=True)
    for path, reason in broken:
        console.print(Text(f"{path}: broken, {reason}", STYLES["failed"]), soft_wrap=True)
    for note in notes:
        console.print(Text(f"note: {note}", "yellow"), soft_wrap=True)


def table(rows: Sequence[StatusRow], width: int) -> Table:
    """A table with one row per run: with all columns on a wide screen, and with a summary on a narrow one.

    Args:
        width: columns of the screen.
    """
    several_sweeps = len({row.sweep for row in rows}) > 1
    has_jobs = any(row.job is not None for row in rows)
    wide = width >= _WIDE
    grid = Table() if wide else Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("sweep", "arm") if several_sweeps else ("arm",):
        grid.add_column(heading, overflow="fold")
    grid.add_column("seed", justify="right")
    grid.add_column("state", no_wrap=True)
    if has_jobs:
        grid.add_column("job", no_wrap=True)
    if wide:
        grid.add_column("", min_width=12)
        for heading in ("step", "loss", "tokens/s", "to go"):
            grid.add_column(heading, justify="right")
        grid.add_column("now", overflow="fold", max_width=40)
    else:
        grid.add_column("", overflow="fold")
    for row in rows:
        grid.add_row(
            *([Text(row.sweep)] if several_sweeps else []),
            Text(row.run.split("/")[-2]),  # the arm's folder: with the values that a tuning run tries
            "" if row.seed is None else str(row.seed),
            Text(row.status, STYLES[row.status]),
            *([Text(row.job or "")] if has_jobs else []),
            *(_columns(row) if wide else [Text("  ".join(_words(row)))]),
        )
    return grid


def _columns(row: StatusRow) -> list[Text | ProgressBar]:
    return [
        ProgressBar(total=1.0, completed=share(row), width=12),
        Text(f"{row.step:,}/{row.steps:,}" if row.step is not None else ""),
        Text(_number(row.loss, ".4f")),
        Text(_number(row.tokens_per_second, ",.0f")),
        Text(_to_go(row) or ""),
        Text(_now(row)),
    ]


def _words(row: StatusRow) -> list[str]:
    """The summary of a run on a narrow screen."""
    words = []
    if row.status in ("running", "preempted") and row.step is not None and row.steps:
        words.append(f"{row.step:,}/{row.steps:,}")
    if row.tokens_per_second is not None:
        words.append(f"{_number(row.tokens_per_second, ',.0f')} tok/s")
    if left := _to_go(row):
        words.append(f"{left} to go")
    if row.loss is not None and row.status in ("finished", "diverged"):
        words.append(f"loss {row.loss:.4f}")
    now = _now(row)
    return [*words, now] if now else words


def _now(row: StatusRow) -> str:
    """A few words on a run: what it does and its last heartbeat, why it waits, or its kind of failure and where."""
    if row.status == "running":
        seen = f"seen {duration(row.heartbeat_age)} ago" if row.heartbeat_age is not None else ""
        return ", ".join(part for part in (_activity(row), seen) if part)
    if row.status in ("failed", "lost") or row.failure == "other_code":
        reason = FAILURES[row.failure] if row.failure else ""
    else:
        reason = row.waits_for or ""
    stopped = f"stopped in {_evaluation(row)}" if row.evaluation is not None else ""
    return ", ".join(part for part in (stopped, reason) if part)


def _activity(row: StatusRow) -> str:
    """What a running run is doing, if it isn't a step of training: `evaluating recall, 2 of 3, 40%`."""
    if row.evaluation is not None:
        return f"evaluating {_evaluation(row)}"
    return _ACTIVITIES.get(row.phase or "training", "")


def _evaluation(row: StatusRow) -> str:
    """An evaluation with its number, and how far it is: `recall, 2 of 3, 40%`."""
    share = "" if row.evaluation_done is None else f", {row.evaluation_done:.0%}"
    return f"{row.evaluation}, {row.evaluation_number} of {row.evaluations}{share}"


def _to_go(row: StatusRow) -> str | None:
    """The time to go; if that of evaluations isn't known, the time until they begin, and how many they are."""
    if row.eta is not None:
        return duration(row.eta)
    if row.training_eta is None or row.evaluation is not None:
        return None
    return f"{duration(row.training_eta)} + {plural(row.evaluations or 0, 'evaluation')}"


def line(row: StatusRow) -> str:
    """A run in one line."""
    parts = [row.run, row.status]
    if row.status == "running" and row.attempts > 1:
        parts.append(f"attempt {row.attempts}")
    if row.job is not None and row.status != "finished":
        parts.append(f"job {row.job}")
    if row.step and row.steps:
        parts.append(f"step {row.step:,}/{row.steps:,} ({100 * row.step // row.steps}%)")
    if row.loss is not None:
        parts.append(f"loss {row.loss:.4f}")
    if row.tokens_per_second is not None:
        parts.append(f"{_number(row.tokens_per_second, ',.0f')} tokens/s")
    if left := _to_go(row):
        parts.append(f"{left} to go")
    if row.status == "running" and (activity := _activity(row)):
        parts.append(activity)
    if row.status != "running":
        parts += [part for part in (_now(row), row.reason) if part]
    return "  ".join(parts)


def has_trouble(row: StatusRow) -> bool:
    """Whether to print why a run has no result."""
    return row.status in _TROUBLES or row.failure == "other_code"


def trouble(row: StatusRow) -> Text:
    """The line that says why a run has no result."""
    kind = f" ({FAILURES[row.failure]})" if row.failure and row.status in ("failed", "lost") else ""
    return Text(f"{row.run}: {row.status}{kind}" + (f", {row.reason}" if row.reason else ""), STYLES[row.status])


def totals(rows: Sequence[StatusRow]) -> str:
    """The number of runs with each status."""
    numbers = counts(rows)
    parts = [f"{numbers[status]} {status}" for status in STYLES if status in numbers]
    return ": ".join([plural(len(rows), "run"), *([", ".join(parts)] if parts else [])])


def share(row: StatusRow) -> float:
    """The fraction of its steps that a run has done."""
    if row.status == "finished":
        return 1.0
    return row.step / row.steps if row.step and row.steps else 0.0


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


def foremost(rows: Sequence[StatusRow], most: int) -> list[StatusRow]:
    """The `most` most important rows, in their order."""
    rank = {status: number for number, status in enumerate(STYLES)}
    numbers = sorted(range(len(rows)), key=lambda number: rank[rows[number].status])[:most]
    return [rows[number] for number in sorted(numbers)]


def _number(value: float | None, form: str) -> str:
    if value is None:
        return ""
    return format(value, form) if math.isfinite(value) else str(value)

"""A sweep in progress, watched through its run folders alone: a live table, or plain lines where there is no terminal.

So it shows the same for runs started here, by another launcher, or on a cluster.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lab.dispatch.status import Row, counts, row
from lab.runs import BrokenRun, RunFolder
from lab.runs.state import Status

STYLES: dict[Status, str] = {
    "running": "cyan",
    "failed": "red",
    "lost": "red",
    "preempted": "yellow",
    "diverged": "magenta",
    "queued": "dim",
    "blocked": "dim",
    "finished": "green",
}
"""In the order of what a person wants to see where not everything fits."""

_TROUBLES = ("failed", "lost", "diverged", "blocked")
_TABLE_SECONDS, _LINES_SECONDS = 0.5, 1.0
_FRAME = 7  # lines of the screen taken by the table's head, its frame and what stands below it


class SweepDisplay:
    """Shows runs while they go on. A context manager; what it shows is brought up to date inside.

    Args:
        runs: what to show, in this order.
        console: where; standard output by default.
    """

    def __init__(self, runs: Sequence[RunFolder], *, console: Console | None = None) -> None:
        self._runs = list(runs)
        self._console = console or Console()
        self._ended: dict[RunFolder, Row] = {}
        self._said: dict[str, tuple[Status, int, int]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None

    def __enter__(self) -> SweepDisplay:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self.render, refresh_per_second=1 / _TABLE_SECONDS)
            self._live.start()
        else:
            self.changes()  # how things stand now is no change
            self._thread = threading.Thread(target=self._print_changes, name="display", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._thread is not None:
            self._stop.set()
            self._thread.join()

    def wait(self) -> None:
        """Show on until no run is going on or waiting to, or until Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            while any(each.status in ("running", "queued", "preempted") for each in self.rows()):
                time.sleep(_LINES_SECONDS)

    def rows(self) -> list[Row]:
        """The runs as they stand now; one whose files are broken is left out."""
        return list(self._read())

    def render(self) -> RenderableType:
        """The table, as high as the screen allows: the rows that matter most where not all fit."""
        rows = self.rows()
        troubles = [each for each in rows if each.status in _TROUBLES][:3]
        room = max(3, self._console.height - _FRAME - len(troubles))
        shown = rows
        if len(rows) > room:
            rank = list(STYLES)
            shown = sorted(rows, key=lambda each: rank.index(each.status))[:room]
        return Group(_table(shown), Text(_totals(rows)), *map(_trouble, troubles))

    def changes(self) -> list[str]:
        """Lines on what has changed since the last call: another status or attempt, or another quarter of the way."""
        lines = []
        for each in self._read():
            quarter = int(4 * _share(each))
            now = (each.status, each.attempts, quarter)
            before = self._said.get(each.run)
            if now != before:
                lines.append(_line(each))
            self._said[each.run] = now
        return lines

    def _read(self) -> Iterator[Row]:
        for run in self._runs:
            try:
                found = self._ended.get(run) or row(run)
            except BrokenRun:
                continue
            if found.status in ("finished", "diverged"):
                self._ended[run] = found  # nothing about it will change any more
            yield found

    def _print_changes(self) -> None:
        ended = False
        while not ended:
            ended = self._stop.wait(_LINES_SECONDS)  # once more after the end
            for line in self.changes():
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_status(
    runs: Sequence[RunFolder], broken: Sequence[tuple[Path, str]] = (), *, console: Console | None = None
) -> None:
    """Print where the runs stand now: all of them, why some have no result, and folders that can't be read."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)  # nobody's window: what reads it must not lose columns
    rows = SweepDisplay(runs).rows()
    if rows:
        console.print(_table(rows))
    console.print(Text(_totals(rows)), soft_wrap=True)
    for each in rows:
        if each.status in _TROUBLES:
            console.print(_trouble(each), soft_wrap=True)
    for path, reason in broken:
        console.print(Text(f"{path}: broken, {reason}", STYLES["failed"]), soft_wrap=True)


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


def _table(rows: Sequence[Row]) -> Table:
    several = len({each.sweep for each in rows}) > 1
    table = Table()
    for heading in ("sweep", "arm") if several else ("arm",):
        table.add_column(heading, overflow="fold")
    table.add_column("seed", justify="right")
    table.add_column("state")
    table.add_column("", min_width=12)
    for heading in ("step", "loss", "tokens/s", "to go"):
        table.add_column(heading, justify="right")
    for each in rows:
        table.add_row(
            *([Text(each.sweep), Text(each.arm)] if several else [Text(each.arm)]),
            "" if each.seed is None else str(each.seed),
            Text(each.status, STYLES[each.status]),
            ProgressBar(total=1.0, completed=_share(each), width=12),
            f"{each.step:,}/{each.steps:,}" if each.step is not None else "",
            _number(each.loss, ".4f"),
            _number(each.tokens_per_second, ",.0f"),
            duration(each.eta) if each.eta is not None else "",
        )
    return table


def _line(each: Row) -> str:
    parts = [each.run, each.status]
    if each.status == "running" and each.attempts > 1:
        parts.append(f"attempt {each.attempts}")
    if each.step and each.steps:
        parts.append(f"step {each.step:,}/{each.steps:,} ({100 * each.step // each.steps}%)")
    if each.loss is not None:
        parts.append(f"loss {each.loss:.4f}")
    if each.tokens_per_second is not None:
        parts.append(f"{_number(each.tokens_per_second, ',.0f')} tokens/s")
    if each.eta is not None:
        parts.append(f"{duration(each.eta)} to go")
    if each.reason and each.status != "running":
        parts.append(each.reason)
    return "  ".join(parts)


def _trouble(each: Row) -> Text:
    return Text(f"{each.run}: {each.status}" + (f", {each.reason}" if each.reason else ""), STYLES[each.status])


def _totals(rows: Sequence[Row]) -> str:
    found = counts(rows)
    head = "1 run: " if len(rows) == 1 else f"{len(rows)} runs" + (": " if rows else "")
    return head + ", ".join(f"{found[status]} {status}" for status in STYLES if status in found)


def _share(each: Row) -> float:
    if each.status == "finished":
        return 1.0
    return each.step / each.steps if each.step and each.steps else 0.0


def _number(value: float | None, form: str) -> str:
    if value is None:
        return ""
    return format(value, form) if math.isfinite(value) else str(value)

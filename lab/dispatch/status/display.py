"""A sweep in progress, watched through its run folders alone: a live table, or plain lines where there is no terminal.

So it shows the same for runs started here, by another launcher, or on a cluster; of a cluster's queue it is told.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from lab.dispatch.status.status import Row, row
from lab.dispatch.status.table import STYLES, TROUBLES, line, share, table, totals, trouble
from lab.records import BrokenRecord, RunFolder
from lab.records.state import Status

_TABLE_SECONDS, _LINES_SECONDS = 0.5, 1.0
_FRAME = 7  # lines of the screen taken by the table's head, its frame and what stands below it


class SweepDisplay:
    """Shows runs while they go on. A context manager; what it shows is brought up to date inside.

    Args:
        runs: what to show, in this order.
        console: where; standard output by default.
        join: adds to rows what is known of them from elsewhere, such as a cluster's queue.
    """

    def __init__(
        self,
        runs: Sequence[RunFolder],
        *,
        console: Console | None = None,
        join: Callable[[Sequence[Row]], list[Row]] = list,
    ) -> None:
        self._runs = list(runs)
        self._join = join
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

    def add(self, runs: Sequence[RunFolder]) -> None:
        """Show these too, below the others."""
        self._runs = list(dict.fromkeys([*self._runs, *runs]))

    def say(self, line: str) -> None:
        """Print a line above the table, or among the plain lines."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def wait(self) -> None:
        """Show on until no run is going on or waiting to, or until Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            while any(each.open for each in self.rows()):
                time.sleep(_LINES_SECONDS)

    def rows(self) -> list[Row]:
        """The runs as they stand now; one whose files are broken is left out."""
        return self._join(list(self._read()))

    def render(self) -> RenderableType:
        """The table, as high as the screen allows: the rows that matter most where not all fit."""
        rows = self.rows()
        troubles = [each for each in rows if each.status in TROUBLES][:3]
        room = max(3, self._console.height - _FRAME - len(troubles))
        shown = rows
        if len(rows) > room:
            rank = list(STYLES)
            shown = sorted(rows, key=lambda each: rank.index(each.status))[:room]
        return Group(table(shown, self._console.width), Text(totals(rows)), *map(trouble, troubles))

    def changes(self) -> list[str]:
        """Lines on what has changed since the last call: another status or attempt, or another quarter of the way."""
        lines = []
        for each in self.rows():
            quarter = int(4 * share(each))
            now = (each.status, each.attempts, quarter)
            before = self._said.get(each.run)
            if now != before:
                lines.append(line(each))
            self._said[each.run] = now
        return lines

    def _read(self) -> Iterator[Row]:
        for run in self._runs:
            try:
                found = self._ended.get(run) or row(run)
            except BrokenRecord:
                continue
            if found.status in ("finished", "diverged"):
                self._ended[run] = found  # nothing about it will change any more
            yield found

    def _print_changes(self) -> None:
        ended = False
        while not ended:
            ended = self._stop.wait(_LINES_SECONDS)  # once more after the end
            for said in self.changes():
                self._console.print(said, markup=False, highlight=False, soft_wrap=True)

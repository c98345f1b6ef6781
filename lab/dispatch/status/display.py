"""A sweep in progress: a live table, or plain lines where there is no terminal.

It reads the run folders alone, so it shows the same for runs started here, by another launcher, or on a cluster.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from lab.dispatch.status.status import StatusRow, read_row
from lab.dispatch.status.table import foremost, has_trouble, line, share, table, totals, trouble
from lab.records import BrokenRecord, RunFolder, Status

_TABLE_SECONDS, _LINES_SECONDS = 0.5, 1.0
_FRAME = 7  # lines of the screen taken by the table's head, its frame and what stands below it


class SweepDisplay:
    """Shows runs while they go on. A context manager; what it shows is brought up to date inside.

    Args:
        runs: what to show, in this order.
        console: where; standard output by default.
        join: adds to rows what launchers know of them.
    """

    def __init__(
        self,
        runs: Sequence[RunFolder],
        *,
        console: Console | None = None,
        join: Callable[[Sequence[StatusRow]], list[StatusRow]] = list,
    ) -> None:
        self._runs = list(runs)
        self._join = join
        self._console = console or Console()
        self._ended: dict[RunFolder, StatusRow] = {}
        self._printed: dict[str, tuple[Status, int, int]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None

    def __enter__(self) -> SweepDisplay:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self.render, refresh_per_second=1 / _TABLE_SECONDS)
            self._live.start()
        else:
            self.changes()  # the state at the beginning is no change
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
            while any(row.open for row in self.rows()):
                time.sleep(_LINES_SECONDS)

    def rows(self) -> list[StatusRow]:
        """The runs as they stand now; one whose files are broken is left out."""
        return self._join(list(self._read()))

    def render(self) -> RenderableType:
        """The table, as high as the screen allows: the rows that matter most where not all fit."""
        rows = self.rows()
        troubles = [row for row in rows if has_trouble(row)][:3]
        room = max(3, self._console.height - _FRAME - len(troubles))
        shown = foremost(rows, room)
        return Group(table(shown, self._console.width), Text(totals(rows)), *map(trouble, troubles))

    def changes(self) -> list[str]:
        """Lines on what has changed since the last call: another status or attempt, or another quarter of the way."""
        lines = []
        for row in self.rows():
            now = (row.status, row.attempts, int(4 * share(row)))
            if now != self._printed.get(row.run):
                lines.append(line(row))
            self._printed[row.run] = now
        return lines

    def _read(self) -> Iterator[StatusRow]:
        for run in self._runs:
            try:
                row = self._ended.get(run) or read_row(run)
            except BrokenRecord:
                continue
            if row.status in ("finished", "diverged"):
                self._ended[run] = row  # nothing about it will change any more
            yield row

    def _print_changes(self) -> None:
        ended = False
        while not ended:
            ended = self._stop.wait(_LINES_SECONDS)  # once more after the end
            for change in self.changes():
                self.say(change)

"""Shows the progress of runs: a live table, or plain lines outside a terminal.

It reads only run folders, so it shows runs on this machine and on a cluster in the same way.
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
from lab.terminal import plain_console

_TABLE_SECONDS, _LINES_SECONDS = 0.5, 1.0
_FRAME = 7  # lines of the screen for the table's heading, frame and totals


class SweepDisplay:
    """Shows runs while they run. A context manager, inside of which the display is kept up to date.

    Args:
        runs: the runs to show, in this order.
        console: where to print; by default standard output.
        join: completes rows with what launchers know.
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
        self._console = console or plain_console()
        self._ended: dict[RunFolder, StatusRow] = {}
        self._printed: dict[str, tuple[Status, int, int, str | None]] = {}
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
        """Show these runs too, below the others."""
        self._runs = list(dict.fromkeys([*self._runs, *runs]))

    def say(self, line: str) -> None:
        """Print a line above the table, or between the plain lines."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def wait(self) -> None:
        """Keep showing the runs until none is running or waiting, or until Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            while any(row.open for row in self.rows()):
                time.sleep(_LINES_SECONDS)

    def rows(self) -> list[StatusRow]:
        """The rows of the runs now, without those whose files can't be read."""
        return self._join(list(self._read()))

    def render(self) -> RenderableType:
        """The table, with the most important rows if not all fit on the screen."""
        rows = self.rows()
        troubles = [row for row in rows if has_trouble(row)][:3]
        room = max(3, self._console.height - _FRAME - len(troubles))
        visible_rows = foremost(rows, room)
        return Group(table(visible_rows, self._console.width), Text(totals(rows)), *map(trouble, troubles))

    def changes(self) -> list[str]:
        """A line for each run with a new status, attempt, quarter of its steps or evaluation since the last call."""
        lines = []
        for row in self.rows():
            now = (row.status, row.attempts, int(4 * share(row)), row.evaluation)
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

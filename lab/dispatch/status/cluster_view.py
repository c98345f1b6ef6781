"""Runs joined with the cluster's view of them, where they were ever sent to one; loads nothing of it otherwise."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.dispatch.status.status import Row, row_of
from lab.records import survey

if TYPE_CHECKING:
    from lab.dispatch.launchers.slurm.view import View

_JOURNALS = "*/.slurm"  # of sweeps that were sent to Slurm; a sweep may have sent runs that stand with another


def view(root: Path | str, rows: Sequence[Row]) -> View | None:
    """The cluster's view of these runs; None where none of them was ever sent to one."""
    if not rows or next(Path(root).glob(_JOURNALS), None) is None:
        return None
    from lab.dispatch.launchers.slurm import view as queue

    return queue.look(root, rows)


def joined(rows: Sequence[Row], root: Path | str) -> tuple[list[Row], tuple[str, ...]]:
    """The rows with what the cluster adds, and lines on what it doesn't tell."""
    found = view(root, rows)
    return (list(rows), ()) if found is None else (found.join(rows), found.notes)


def settle(root: Path | str, sweep: str) -> list[str]:
    """Write into the folders of a sweep's lost runs what the cluster knows of them, where that was the run's own doing.

    To be called before what is lost is sent again: out of memory and out of time have their own policies.

    Returns:
        names of the runs that stand as failed now.
    """
    if next(Path(root).glob(_JOURNALS), None) is None:
        return []
    lost = [found for found in map(row_of, survey(root, sweep).runs) if found.status == "lost"]
    if not lost:
        return []
    from lab.dispatch.launchers.slurm import view as queue

    return queue.settle(joined(lost, root)[0], root)


class Watch:
    """Runs that are being watched: the cluster is asked now and then, in the background, as it may take a while.

    Args:
        root: below which the runs stand.
        seconds: between two questions to the cluster, whose controller serves everybody.
    """

    def __init__(self, root: Path | str, seconds: float = 10.0) -> None:
        self._root = root
        self._seconds = seconds
        self._view: View | None = None
        self._asked = -math.inf
        self._thread: threading.Thread | None = None

    def join(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, with what the cluster said a moment ago."""
        if self._asked == -math.inf:
            self._ask(rows)
        found = self._joined(rows)
        age = time.monotonic() - self._asked
        if self._view is not None and age > 1.0 and not any(row.open for row in found):
            self._ask(rows)  # nothing more to watch, unless the cluster goes on with what has just been lost
            found = self._joined(rows)
        elif age >= self._seconds and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._ask, args=(rows,), name="queue", daemon=True)
            self._thread.start()
        return found

    def _joined(self, rows: Sequence[Row]) -> list[Row]:
        return list(rows) if self._view is None else self._view.join(rows)

    def _ask(self, rows: Sequence[Row]) -> None:
        self._view = view(self._root, rows)
        self._asked = time.monotonic()


def output_files(row: Row, root: Path | str) -> list[Path]:
    """The files with what a run's job said outside of the run."""
    if row.job is None:
        return []
    from lab.dispatch.launchers.slurm import view as queue

    return queue.output_files(root, row.job)

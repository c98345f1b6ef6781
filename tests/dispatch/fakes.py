"""The fake worker's command, and what its runs leave behind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from lab.dispatch.launchers.local import scheduler, worker_start
from lab.dispatch.status.status import StatusRow, row_from
from lab.records import RunFolder, survey

FAKE_NURSERY = (sys.executable, "-m", "tests.dispatch.fake_nursery")
FAKE_WORKER = (sys.executable, str(Path(__file__).parent / "fake_worker.py"))

CRASHES = [
    ("kill", "lost", "interrupted", "killed (SIGKILL)"),
    ("segfault", "failed", "bug", "crashed (SIGSEGV)"),
    ("os_exit", "failed", "bug", "exit code 7"),
    ("bug", "failed", "bug", "KeyError: 'n_heads'"),
]
"""What a fake worker does, and its run's status, failure and a part of the reason."""


def fork_fake_workers(put: Callable[[ModuleType, str, object], None]) -> None:
    """Have the local launcher fork fake workers where it would fork its own.

    Args:
        put: sets an attribute of a module.
    """
    put(scheduler, "WORKER", FAKE_WORKER)
    put(worker_start, "NURSERY", FAKE_NURSERY)


def marks(run: RunFolder) -> list[tuple[str, int, float]]:
    """What the fake worker marked: word, process, time."""
    path = run.path / "marks.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(word, int(pid), float(when)) for word, pid, when in map(str.split, lines)]


def begun(run: RunFolder) -> int:
    return sum(word == "begin" for word, _, _ in marks(run))


def results(run: RunFolder) -> int:
    """How many times the run came to its end."""
    path = run.path / "results.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0


def most_at_once(runs: list[RunFolder]) -> int:
    """How many of the runs went on at the same time, at most."""
    events = sorted((when, 1 if word == "begin" else -1) for run in runs for word, _, when in marks(run))
    now = most = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


def read_rows(root: Path | str, sweep: str | None = None) -> list[StatusRow]:
    """The status of all runs below the root, or of one sweep."""
    return [row_from(run) for run in survey(root, sweep).runs]

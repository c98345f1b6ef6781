"""The circuit breaker of a submission: after several runs have failed with the same error, no more runs are started.

The other runs would probably fail in the same way. For each failed run a job creates an empty file in the submission's
folder, grouped by error. The job that counts too many of one error records that the submission is stopped. All jobs
check for that record before they start a run.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from lab.records import RunFolder, StoppedSubmission, read_stopped, write_stopped

_SHARED_FAILURES = ("bug", "disk_full")  # likely in other runs too, unlike a lack of memory in a large arm

_TAIL = 65536  # bytes at the end of a log that are searched for the last traceback
_PLACE = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)


@dataclass(frozen=True)
class FailureSite:
    """Where and how a run failed.

    Attributes:
        kind: the exception's name, or the reason without its numbers if the worker ended in another way.
        place: `file:line` of the innermost frame of the traceback; None without a traceback.
    """

    kind: str
    place: str | None

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}" if self.place else self.kind


class CircuitBreaker:
    """The circuit breaker of one submission, whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(self, run: RunFolder, limit: int | None) -> StoppedSubmission | None:
        """Count a failed run.

        Returns:
            Why the submission is stopped, once `limit` runs have failed with the same error; else None. A limit of None
            never stops it.
        """
        if run.state.failure not in _SHARED_FAILURES:
            return None
        error = str(failure_site(run))
        marks = self._folder / "failed" / _digest(error)
        marks.mkdir(parents=True, exist_ok=True)
        (marks / _digest(run.name)).touch()
        count = sum(1 for _ in marks.iterdir())
        if limit is None or count < limit:
            return None
        if self.stopped() is None:
            write_stopped(self._folder, StoppedSubmission(count, error, run.name))
        return self.stopped()

    def stopped(self) -> StoppedSubmission | None:
        """Why the submission was stopped; None if it wasn't."""
        return read_stopped(self._folder)


def failure_site(run: RunFolder) -> FailureSite:
    """How a failed run failed, from its state and the last traceback of its log."""
    reason = run.state.reason or "an unknown error"
    kind = reason.partition(":")[0] if re.match(r"[\w.]+(:|$)", reason) else re.sub(r"\d+", "N", reason)
    _, separator, last = _end(run.path / "log.txt").rpartition("Traceback (most recent call last):")
    places = list(_PLACE.finditer(last)) if separator and kind in last else []
    return FailureSite(kind, f"{places[-1]['file']}:{places[-1]['line']}" if places else None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _end(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""

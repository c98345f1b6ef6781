"""The same error in one run after the other: the rest of a submission would only fail likewise, so it is called off.

Each failed run leaves a mark, by where and how it failed, in a folder of its submission. Whoever finds N of one kind
writes down that the submission is called off; its jobs look for that before they begin a run.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.records import RunFolder
from lab.records.atomic import write_json

COUNTED = ("bug", "disk_full")
"""Kinds of failure that say something of other runs. One arm that is out of memory says nothing of a smaller one."""

_TAIL = 65536  # bytes at the end of a log in which the last traceback stands
_PLACE = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)


@dataclass(frozen=True)
class Error:
    """How a run failed: the kind of exception and the innermost place, or what its worker died of."""

    kind: str
    place: str | None

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}" if self.place else self.kind


class Marks:
    """The marks of one submission, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stopped = folder / "stopped.json"

    def note(self, run: RunFolder, limit: int | None) -> str | None:
        """Mark a run that failed; the reason to call the submission off, once `limit` of them failed alike."""
        if run.state.failure not in COUNTED:
            return None
        error = error_of(run)
        kind = self._folder / "failed" / hashlib.sha256(str(error).encode()).hexdigest()[:16]
        kind.mkdir(parents=True, exist_ok=True)
        (kind / hashlib.sha256(run.name.encode()).hexdigest()[:16]).touch()
        count = sum(1 for _ in kind.iterdir())
        if limit is None or count < limit:
            return None
        if (reason := self.stopped()) is None:
            reason = f"not begun, as {count} runs of this submission failed alike: {error} (see {run.name}/log.txt)"
            write_json(self._stopped, {"reason": reason, "run": run.name})
        return reason

    def stopped(self) -> str | None:
        """Why the submission was called off; None if it wasn't."""
        try:
            found: dict[str, Any] = json.loads(self._stopped.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return str(found["reason"])


def error_of(run: RunFolder) -> Error:
    """How a failed run failed, from its state and the last traceback of its log."""
    state = run.state
    said = state.reason or "an unknown error"
    kind = said.partition(":")[0] if re.match(r"[\w.]+(:|$)", said) else re.sub(r"\d+", "N", said)
    _, found, last = _end(run.path / "log.txt").rpartition("Traceback (most recent call last):")
    places = list(_PLACE.finditer(last)) if found and kind in last else []
    return Error(kind, f"{places[-1]['file']}:{places[-1]['line']}" if places else None)


def _end(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""

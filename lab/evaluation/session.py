"""The session of an evaluation: it reports progress, stops on request, and resumes after an interruption."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from lab.training.progress.outcome import Stopped

Report = Callable[[int, int, str], None]
"""Called with the finished units of work, their total, and a description of the current one."""


class ResumableSession:
    """Stores finished parts in a file, one line each, until the evaluation is complete.

    Args:
        path: the file. Its first line is the identity; a file with another identity is overwritten.
        identity: digest of everything that the parts depend on.
        report: called with the progress.
        stop: called before each part; True stops the evaluation.
    """

    def __init__(
        self, path: Path, identity: str, report: Report | None = None, stop: Callable[[], bool] | None = None
    ) -> None:
        self._path, self._identity = path, identity
        self._report, self._stop = report, stop
        self._parts = _read(path, identity)
        self._file: IO[str] | None = None

    def compute_part(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self._parts:
            if self._stop is not None and self._stop():
                raise Stopped
            self._store(key, compute())
        return self._parts[key]

    def progress(self, done: int, total: int, what: str = "") -> None:
        if self._report is not None:
            self._report(done, total, what)

    def close(self) -> None:
        """Close the file. The next session continues with its parts."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """Close and delete the file, once the evaluation is complete."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _store(self, key: str, value: Any) -> None:
        if self._file is None:
            self._path.parent.mkdir(exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
            for line in (self._identity, *([*pair] for pair in self._parts.items())):
                self._file.write(json.dumps(line) + "\n")
        line = json.dumps([key, value])
        self._file.write(line + "\n")
        self._file.flush()
        self._parts[key] = json.loads(line)[1]  # the value that a resumed evaluation would read


def _read(path: Path, identity: str) -> dict[str, Any]:
    """The parts in a file of this identity. The last line is ignored if it is incomplete."""
    try:
        first, *lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        if json.loads(first) != identity:
            return {}
        return dict(map(json.loads, lines))
    except (OSError, ValueError, TypeError):
        return {}

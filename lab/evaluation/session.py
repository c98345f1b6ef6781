"""An evaluation under way: told of its progress, stopped when asked, and gone on with where it was interrupted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from lab.training.progress.outcome import Stopped

Report = Callable[[int, int, str], None]
"""Called with how much is done, of how much, and what it is."""


class KeptSession:
    """Keeps the parts that are done in a file, a line each, until the evaluation is whole.

    Args:
        path: the file. One of another evaluation, by its first line, is begun anew.
        identity: of the work: equal for evaluations whose parts are interchangeable.
        report: told of progress.
        stop: asked before each part.
    """

    def __init__(
        self, path: Path, identity: str, report: Report | None = None, stop: Callable[[], bool] | None = None
    ) -> None:
        self._path, self._identity = path, identity
        self._report, self._stop = report, stop
        self._done = _read(path, identity)
        self._file: IO[str] | None = None

    def cell(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self._done:
            if self._stop is not None and self._stop():
                raise Stopped
            self._keep(key, compute())
        return self._done[key]

    def progress(self, done: int, total: int, what: str = "") -> None:
        if self._report is not None:
            self._report(done, total, what)

    def close(self) -> None:
        """Leave what is done for the next evaluation."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """The evaluation is whole: its parts are no longer needed."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _keep(self, key: str, value: Any) -> None:
        if self._file is None:
            self._path.parent.mkdir(exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
            for line in (self._identity, *([*pair] for pair in self._done.items())):
                self._file.write(json.dumps(line) + "\n")
        line = json.dumps([key, value])
        self._file.write(line + "\n")
        self._file.flush()
        self._done[key] = json.loads(line)[1]  # as an interrupted evaluation reads it


def _read(path: Path, identity: str) -> dict[str, Any]:
    """The parts that a file holds of this work; a last line without its end was being written."""
    try:
        first, *lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        if json.loads(first) != identity:
            return {}
        return dict(map(json.loads, lines))
    except (OSError, ValueError, TypeError):
        return {}

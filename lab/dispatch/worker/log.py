"""A run's `log.txt`: the output of its attempts, one after the other."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO


class RunLog:
    """Appends one attempt to `log.txt`.

    Args:
        path: the file; made if it is missing.
        title: of the attempt, for its header.
        capture: while the log is open, send all that the process writes to stdout and stderr into it, what libraries
            in C and child processes write included. Otherwise only the header and `exception` go into it.
    """

    def __init__(self, path: Path, title: str, *, capture: bool) -> None:
        self._path = path
        self._title = title
        self._capture = capture

    def __enter__(self) -> RunLog:
        self._stack = contextlib.ExitStack()
        self._file: TextIO = self._stack.enter_context(open(self._path, "a", encoding="utf-8", buffering=1))
        if self._capture:
            self._stack.enter_context(_redirected(self._file.fileno()))
        self.line(f"==== {self._title}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC ====")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def line(self, text: str) -> None:
        """Write one line."""
        self._file.write(text + "\n")

    def exception(self, error: BaseException) -> None:
        """Write the traceback of an exception."""
        self._file.write("".join(traceback.format_exception(error)))


@contextlib.contextmanager
def _redirected(target: int) -> Iterator[None]:
    """Descriptors 1 and 2 write to `target`; what Python has buffered goes where it was meant to go."""
    _flush()
    saved = os.dup(1), os.dup(2)
    os.dup2(target, 1)
    os.dup2(target, 2)
    try:
        yield
    finally:
        _flush()
        for descriptor, before in zip((1, 2), saved, strict=True):
            os.dup2(before, descriptor)
            os.close(before)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()

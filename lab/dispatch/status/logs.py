"""The output of a run: its `log.txt`, and its job's output if the worker died before it could write there."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab.dispatch.status.status import StatusRow
from lab.records import RunFolder
from lab.refusals import RequestError

LOG = "log.txt"
_HEADER = re.compile(r"==== attempt (\d+) on .* ====")
_READ_SECONDS, _STATE_SECONDS = 0.2, 1.0


def lines_of(run: RunFolder, *, attempt: int | None = None, last: int | None = None) -> list[str]:
    """The lines of a run's log.

    Args:
        attempt: only lines of this attempt.
        last: only this many lines from the end.
    Raises:
        RequestError: there is no such attempt in the log.
    """
    try:
        with open(run.path / LOG, encoding="utf-8", errors="replace") as file:
            lines: Iterator[str] = (line.removesuffix("\n") for line in file)
            if attempt is not None:
                lines = _of_attempt(run, lines, attempt)
            return list(lines if last is None else deque(lines, last))
    except FileNotFoundError:
        if attempt is not None:
            raise RequestError(f"{run.name}: attempt {attempt} is not in its log, which is empty") from None
        return []


def job_output(files: Sequence[Path], last: int | None = None) -> list[str]:
    """The output that jobs wrote outside of their runs: each file below its name, without empty and missing files."""
    output: list[str] = []
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = [line.removesuffix("\n") for line in (file if last is None else deque(file, last))]
        except OSError:
            continue
        if lines:
            output += [f"==== {path} ====", *lines]
    return output


def follow(
    run: RunFolder,
    look: Callable[[], StatusRow],
    *,
    last: int | None = None,
    on_wait: Callable[[StatusRow], None] = lambda row: None,
) -> Iterator[str]:
    """The lines of a run's log as they are written, through attempts and requeues, until the run has ended.

    Args:
        look: returns the run's row.
        last: start with this many lines from the end of the present log.
        on_wait: called with the row of a run that waits, and again when the row has changed.
    """
    *lines, rest = _read(run, 0).split(b"\n")
    offset = sum(len(line) + 1 for line in lines) + len(rest)
    for line in lines if last is None else lines[max(0, len(lines) - last) :]:
        yield _text(line)
    reported: tuple[str, str | None] | None = None
    last_look = -math.inf
    has_ended = False
    while True:
        chunk = _read(run, offset)
        offset += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        yield from map(_text, lines)
        if has_ended and not chunk:  # everything written before its end has been read
            if rest:
                yield _text(rest)
            return
        if time.monotonic() - last_look >= _STATE_SECONDS:
            row, last_look = look(), time.monotonic()
            has_ended = not row.open
            if row.status != "running" and not has_ended and reported != (row.status, row.waits_for):
                reported = row.status, row.waits_for
                on_wait(row)
        elif not chunk:
            time.sleep(_READ_SECONDS)


def _of_attempt(run: RunFolder, lines: Iterator[str], attempt: int) -> Iterator[str]:
    attempts: list[int] = []
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is not None:
            attempts.append(int(header[1]))
        if attempts and attempts[-1] == attempt:
            yield line
    if attempt not in attempts:
        numbers = ", ".join(map(str, attempts)) or "none"
        raise RequestError(f"{run.name}: attempt {attempt} is not in its log, which has {numbers}")


def _read(run: RunFolder, offset: int) -> bytes:
    try:
        with open(run.path / LOG, "rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""


def _text(line: bytes) -> str:
    return line.decode(errors="replace")

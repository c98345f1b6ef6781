"""metrics.jsonl: the curves of a run, a point a line, in steps of the optimizer.

A point holds its `step`, mostly `tokens` and `time` (seconds of training), and what was measured there: name → finite
number. A sweep has a million of them, so they are read fast: a file is searched for the metrics' names, and only the
lines that hold one are parsed, all at once. Of a validation's metric, one line in ten, a thousand runs of a thousand
points take 0.7 s of CPU; parsed line by line they take 8 s.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from lab.records.atomic import write_text
from lab.records.checks import BrokenRecord, Fields, WrongValue, is_measured

METRICS_FILE = "metrics.jsonl"
COORDINATES = ("step", "tokens", "time")
"""What says where a point is; the rest of it was measured there."""

_CHUNK = 65_536


class PointWriter:
    """Adds points to a run's curves.

    Args:
        folder: the run's.
        from_step: optimizer steps that the run has already done. Points beyond it, from an attempt that went further
            than its last checkpoint, are dropped, and so is a last line that an interruption left unfinished.
    """

    def __init__(self, folder: Path, from_step: int = 0) -> None:
        path = metrics_path(folder)
        _cut_back(path, from_step)
        self._lines = path.open("a", encoding="utf-8")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Record one point, in finite numbers."""
        self._lines.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._lines.flush()

    def sync(self) -> None:
        """Bring every point to the disk."""
        os.fsync(self._lines.fileno())

    def close(self) -> None:
        self.sync()
        self._lines.close()


class Points:
    """The points of one metrics.jsonl with at least one of the metrics.

    A last line without its end is left out: it is still being written, or was when its writer died. A line that can't
    be read ends the curves, as it does for a run that resumes. A line that isn't a point, such as a list or one whose
    step isn't a number, is left out. A file that is missing or can't be read has no points.
    """

    def __init__(self, path: Path, metrics: Sequence[str]) -> None:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        self._text = text[: text.rfind("\n") + 1]
        self._points = self._parse(metrics)

    def values(self, metric: str) -> dict[float, float]:
        """Step → value, by step; the last value if a step has several."""
        values = {}
        for point in self._points:
            value, step = point.get(metric), point.get("step")
            if is_measured(value) and is_measured(step):
                values[step] = value
        return dict(sorted(values.items()))

    def tokens_per_step(self) -> float | None:
        """From the first point that holds its tokens; None without one, as points of evaluations have a step alone."""
        for point in (*self._points[:1], *(self._first("tokens"))):
            tokens, step = point.get("tokens"), point.get("step")
            if is_measured(tokens) and is_measured(step) and step != 0:
                return float(tokens) / float(step)
        return None

    def seconds(self) -> dict[float, float]:
        """Step → seconds of training, for every step that has a point with its time."""
        points = self._points
        if any("time" not in point for point in points):
            points = [*self._parse(("time",)), *points]
        seconds = {}
        for point in points:
            step, time = point.get("step"), point.get("time")
            if is_measured(time) and is_measured(step):
                seconds[step] = time
        return seconds

    def _parse(self, metrics: Sequence[str]) -> list[dict[str, object]]:
        keys = [f"{json.dumps(metric)}:" for metric in metrics]
        if any(self._text.count(key) == self._text.count("\n") for key in keys):
            lines = self._text[:-1]  # every line has it, as a training loss
        else:
            lines = "\n".join(_lines_with(keys, self._text))
        try:
            points = json.loads(f"[{lines.replace(chr(10), ',')}]")
        except (ValueError, RecursionError):
            points = _until_broken(lines.split("\n"))
        return [point for point in points if type(point) is dict]

    def _first(self, metric: str) -> list[dict[str, object]]:
        """The first point that holds a metric, in a list; an empty list if there is none or it can't be read."""
        line = next(_lines_with([f"{json.dumps(metric)}:"], self._text), None)
        return [point for point in _until_broken([line] if line else []) if type(point) is dict]


def metrics_path(folder: Path) -> Path:
    """Where a run's curves are."""
    return folder / METRICS_FILE


def read_points(path: Path) -> list[dict[str, float]]:
    """All points in the order written; empty before the first.

    Raises:
        BrokenRecord: a line can't be read. A last line without its end is being written, and is left out.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    points = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            point = json.loads(line)
            if not isinstance(point, dict):
                raise BrokenRecord(path, f"line {number} is no point")
            Fields(point).whole("step")
        except WrongValue as error:
            raise BrokenRecord(path, error.problem, f"step of line {number}") from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, BrokenRecord):
                raise
            raise BrokenRecord(path, f"line {number}: {error}") from None
        points.append(point)
    return points


def add_point(folder: Path, name: str, step: int, values: Mapping[str, float]) -> None:
    """Add what an evaluation measured, `<name>/<metric>` → value, in place of its earlier point at that step.

    Values that aren't finite are left out.
    """
    path = metrics_path(folder)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if not (f'"{name}/' in line and _is_point_of(json.loads(line), name, step))]
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    write_text(path, "".join([*kept, json.dumps({"step": step, **finite}) + "\n"]))


def last_points(path: Path, metric: str, most: int) -> list[tuple[float, float]]:
    """The last finite values of a metric with their steps, ascending; empty where the file can't be read.

    Only as much of the file is read as they take, from its end.
    """
    try:
        with path.open("rb") as file:
            size, length = file.seek(0, os.SEEK_END), _CHUNK
            while True:
                start = max(0, size - length)
                file.seek(start)
                lines = file.read(size - start).splitlines()
                found = _last(lines if start == 0 else lines[1:], metric, most)
                if len(found) >= most or start == 0:
                    return sorted(found.items())
                length *= 4
    except OSError:
        return []


def recorded_metrics(path: Path, lines: int) -> set[str]:
    """The metrics in the first lines of a file; those before the first line that can't be read."""
    found: set[str] = set()
    try:
        with path.open(encoding="utf-8") as file:
            for line in islice(file, lines):
                point = json.loads(line)
                found |= {name for name in point if "/" in name} if isinstance(point, dict) else set()
    except (OSError, ValueError, RecursionError):
        pass
    return found


def _cut_back(path: Path, step: int) -> None:
    """Drop the points after `step`, and a last line that an interruption left unfinished; atomic."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            point = json.loads(line)
        except json.JSONDecodeError:
            break
        if point["step"] > step or not line.endswith("\n"):
            break
        kept.append(line)
    write_text(path, "".join(kept))


def _is_point_of(point: Mapping[str, float], name: str, step: int) -> bool:
    return point["step"] == step and all(key == "step" or key.startswith(f"{name}/") for key in point)


def _last(lines: Sequence[bytes], metric: str, most: int) -> dict[float, float]:
    """Step → value, of as many points from the end. A line that a crash left half written is none, nor is one without
    a step that is a number."""
    name = json.dumps(metric).encode()
    found: dict[float, float] = {}
    for line in reversed(lines):
        if name not in line:
            continue
        try:
            point = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if type(point) is not dict:
            continue
        step, value = point.get("step"), point.get(metric)
        if is_measured(step) and is_measured(value):
            found.setdefault(step, value)
        if len(found) == most:
            break
    return found


def _lines_with(keys: Sequence[str], text: str) -> Iterator[str]:
    """The lines of a text, whole ones, that hold one of the keys."""
    if len(keys) != 1:
        yield from (line for line in text.split("\n") if any(key in line for key in keys))
        return
    (key,) = keys
    at = text.find(key)
    while at >= 0:
        end = text.index("\n", at)
        yield text[text.rfind("\n", 0, at) + 1 : end]
        at = text.find(key, end)


def _until_broken(lines: Sequence[str]) -> list[object]:
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return found

"""metrics.jsonl: the curves of a run, one point a line.

A point has its optimizer `step`, usually `tokens` and `time` (seconds of training), and the values measured there. A
sweep may have a million points, so reading has to be fast: a file is searched for the names of the metrics, and only
lines with one of them are parsed, all at once. For a validation metric, which one line in ten has, a thousand runs of a
thousand points take 0.7 s of CPU; parsing every line would take 8 s.
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
"""The keys of a point that locate it; the other keys are metrics."""

_CHUNK = 65_536


class PointWriter:
    """Adds points to a run's curves.

    Args:
        folder: the run's folder.
        from_step: optimizer steps that the run has already done. Later points, of an attempt that went further than its
            last checkpoint, are dropped; so is a last line that an interruption left unfinished.
    """

    def __init__(self, folder: Path, from_step: int = 0) -> None:
        path = metrics_path(folder)
        _cut_back(path, from_step)
        self._lines = path.open("a", encoding="utf-8")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Record one point. All values must be finite."""
        self._lines.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._lines.flush()

    def sync(self) -> None:
        """Flush every point to the disk."""
        os.fsync(self._lines.fileno())

    def close(self) -> None:
        self.sync()
        self._lines.close()


class Points:
    """The points of one metrics.jsonl that have at least one of the metrics.

    A last line without a line break is left out: it is still being written, or its writer died. A line that can't be
    parsed ends the curves, as it does for a run that resumes. A line that isn't a point, such as a list or an object
    without a numeric step, is left out. A file that is missing or can't be read has no points.
    """

    def __init__(self, path: Path, metrics: Sequence[str]) -> None:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        self._text = text[: text.rfind("\n") + 1]
        self._points = self._parse(metrics)

    def values(self, metric: str) -> dict[float, float]:
        """Step → value, ordered by step; the last value if a step has several."""
        values = {}
        for point in self._points:
            value, step = point.get(metric), point.get("step")
            if is_measured(value) and is_measured(step):
                values[step] = value
        return dict(sorted(values.items()))

    def tokens_per_step(self) -> float | None:
        """Tokens a step, from the first point with tokens; None without one. Points of evaluations have only a step."""
        for point in (*self._points[:1], *(self._first("tokens"))):
            tokens, step = point.get("tokens"), point.get("step")
            if is_measured(tokens) and is_measured(step) and step != 0:
                return float(tokens) / float(step)
        return None

    def seconds(self) -> dict[float, float]:
        """Step → seconds of training, for every step with a recorded time."""
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
            lines = self._text[:-1]  # every line has it, as it has the training loss
        else:
            lines = "\n".join(_lines_with(keys, self._text))
        try:
            points = json.loads(f"[{lines.replace(chr(10), ',')}]")
        except (ValueError, RecursionError):
            points = _until_broken(lines.split("\n"))
        return [point for point in points if type(point) is dict]

    def _first(self, metric: str) -> list[dict[str, object]]:
        """A list with the first point that has a metric; empty if there is none, or if it can't be parsed."""
        line = next(_lines_with([f"{json.dumps(metric)}:"], self._text), None)
        return [point for point in _until_broken([line] if line else []) if type(point) is dict]


def metrics_path(folder: Path) -> Path:
    """The file of a run's curves."""
    return folder / METRICS_FILE


def read_points(path: Path) -> list[dict[str, float]]:
    """All points in the order in which they were written.

    A last line without a line break is still being written, and is left out.

    Raises:
        BrokenRecord: a line isn't a point.
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
            Fields(point).integer("step")
        except WrongValue as error:
            raise BrokenRecord(path, error.problem, f"step of line {number}") from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, BrokenRecord):
                raise
            raise BrokenRecord(path, f"line {number}: {error}") from None
        points.append(point)
    return points


def add_point(folder: Path, name: str, step: int, values: Mapping[str, float]) -> None:
    """Add the point of an evaluation, `<name>/<metric>` → value, in place of its earlier point at the same step.

    Values that aren't finite are left out.
    """
    path = metrics_path(folder)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    others = [line for line in lines if not (f'"{name}/' in line and _is_point_of(json.loads(line), name, step))]
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    write_text(path, "".join([*others, json.dumps({"step": step, **finite}) + "\n"]))


def last_points(path: Path, metric: str, most: int) -> list[tuple[float, float]]:
    """The last finite values of a metric as (step, value), ascending; empty where the file can't be read.

    The file is read from its end, and only as far as needed.
    """
    try:
        with path.open("rb") as file:
            size, length = file.seek(0, os.SEEK_END), _CHUNK
            while True:
                start = max(0, size - length)
                file.seek(start)
                lines = file.read(size - start).splitlines()
                values = _last(lines if start == 0 else lines[1:], metric, most)
                if len(values) >= most or start == 0:
                    return sorted(values.items())
                length *= 4
    except OSError:
        return []


def recorded_metrics(path: Path, lines: int) -> set[str]:
    """The names of the metrics in the first lines of a file, up to the first line that can't be parsed."""
    metrics: set[str] = set()
    try:
        with path.open(encoding="utf-8") as file:
            for line in islice(file, lines):
                point = json.loads(line)
                metrics |= {name for name in point if "/" in name} if isinstance(point, dict) else set()
    except (OSError, ValueError, RecursionError):
        pass
    return metrics


def _cut_back(path: Path, step: int) -> None:
    """Drop the points after `step`, and a last line that an interruption left unfinished, in one step."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            point = json.loads(line)
        except json.JSONDecodeError:
            break
        if point["step"] > step or not line.endswith("\n"):
            break
        lines.append(line)
    write_text(path, "".join(lines))


def _is_point_of(point: Mapping[str, float], name: str, step: int) -> bool:
    return point["step"] == step and all(key == "step" or key.startswith(f"{name}/") for key in point)


def _last(lines: Sequence[bytes], metric: str, most: int) -> dict[float, float]:
    """Step → value of the last points, at most `most`. Lines that can't be parsed or have no step are skipped."""
    name = json.dumps(metric).encode()
    values: dict[float, float] = {}
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
            values.setdefault(step, value)
        if len(values) == most:
            break
    return values


def _lines_with(keys: Sequence[str], text: str) -> Iterator[str]:
    """The lines of a text that contain one of the keys. Every line ends in a line break."""
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
    values = []
    for line in lines:
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return values

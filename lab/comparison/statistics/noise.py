"""The noise floor: how much the baseline's own number moves from seed to seed, and from one validation to the next.

A difference below either is no more than another seed, or stopping a little earlier, would have made of the baseline.
Along a run it is the spread of the last validation points about a straight line through them, so that a loss that
still falls isn't taken for noise (Heineman et al. 2025, arXiv 2508.13144, take the spread itself). Nor is one that
falls in a curve: only points of the last quarter of the training count, and of runs with fewer than four there nothing
is said.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.comparison.read.points import is_finite
from lab.comparison.read.results import Arm
from lab.comparison.statistics.paired import mean_of, sample, scaled, unscaled

POINTS = 5
"""Validation points at the end of a run that are looked at."""
END = 0.25
"""The share of a run's steps that is its end."""
_FEWEST = 4  # with three, a single degree of freedom is left beside the line
_CHUNK = 65_536


@dataclass(frozen=True)
class NoiseFloor:
    """The noise of one metric in the baseline, in the metric's unit.

    Attributes:
        seeds: finished seeds with a finite value.
        seeds_sd: sample standard deviation over them; None below two.
        runs: those with enough validation points.
        points_sd: standard deviation of a run's last points about their line, pooled over the runs; None without any,
            and where no float holds it.
    """

    metric: str
    seeds: int
    seeds_sd: float | None
    runs: int
    points_sd: float | None

    def as_dict(self) -> dict[str, float | int | str | None]:
        return vars(self) | {"points": POINTS}


def noise_floor(baseline: Arm, metric: str) -> NoiseFloor:
    """The noise of a metric in an arm's finished runs."""
    found = sample(baseline.values(metric))
    folders = [run.folder.path for run in baseline.runs.values() if run.finished and run.folder]
    tails = [
        tail for folder in folders if len(tail := at_end(last_points(folder / "metrics.jsonl", metric))) >= _FEWEST
    ]
    return NoiseFloor(metric, found.n, found.sd, len(tails), spread_about_lines(tails))


def at_end(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of a run's last points (step, value), ascending, that lie in the last quarter of its steps."""
    return [point for point in points if point[0] >= (1 - END) * points[-1][0]]


def spread_about_lines(tails: Iterable[Mapping[float, float] | Sequence[tuple[float, float]]]) -> float | None:
    """The pooled standard deviation of points (x, y) about the least-squares line of each tail; None without any.

    Each tail of n points with different x has n - 2 degrees of freedom. None too where no float holds it.
    """
    residuals: list[float] = []
    degrees = 0
    for tail in tails:
        points = list(tail.items()) if isinstance(tail, Mapping) else list(tail)
        n = len(points)
        if n < 3:
            continue
        (x, _), (y, power) = _centred([x for x, _ in points]), _centred([y for _, y in points])
        xx = math.fsum(a * a for a in x)
        if xx == 0:
            continue  # all at one x: no line goes through them
        slope = math.fsum(a * b for a, b in zip(x, y, strict=True)) / xx
        residuals += [unscaled(b - slope * a, power) for a, b in zip(x, y, strict=True)]
        degrees += n - 2
    spread = math.hypot(*residuals) / math.sqrt(degrees) if degrees else math.inf
    return spread if math.isfinite(spread) else None


def _centred(values: Sequence[float]) -> tuple[list[float], int]:
    """Deviations from the mean over a power of two that leaves the largest below 1; and the power."""
    small, power = scaled(values)
    mean = mean_of(small)
    near, closer = scaled([value - mean for value in small])
    return near, power + closer


def last_points(path: Path, metric: str, points: int = POINTS) -> list[tuple[float, float]]:
    """The last finite values of a metric in a metrics.jsonl with their steps, ascending; empty where it can't be read.

    Only as much of the file is read as they take, from its end.
    """
    try:
        with path.open("rb") as file:
            size, length = file.seek(0, os.SEEK_END), _CHUNK
            while True:
                start = max(0, size - length)
                file.seek(start)
                lines = file.read(size - start).splitlines()
                found = _last(lines if start == 0 else lines[1:], metric, points)
                if len(found) >= points or start == 0:
                    return sorted(found.items())
                length *= 4
    except OSError:
        return []


def _last(lines: Sequence[bytes], metric: str, points: int) -> dict[float, float]:
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
        if is_finite(step) and is_finite(value):
            found.setdefault(step, value)
        if len(found) == points:
            break
    return found

"""The noise floor: how much the baseline's own value moves from seed to seed, and from one validation to the next.

A difference below either could come from another seed alone, or from stopping a little earlier. Along a run, the noise
is the spread of the last validation points about a straight line through them, so that a loss that still falls isn't
taken for noise (Heineman et al. 2025, arXiv 2508.13144, take the spread itself). So that a curved fall isn't taken for
noise either, only points of the last quarter of the training count; runs with fewer than four there are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.comparison.read.results import ArmResults
from lab.comparison.statistics.paired import mean_of, sample
from lab.records import last_points

POINTS = 5
"""How many validation points at the end of a run count."""
END = 0.25
"""The share of a run's steps that is its end."""
_FEWEST = 4  # three points about a line leave a single degree of freedom

Tail = Sequence[tuple[float, float]]
"""Points (x, y) at the end of a curve, by x."""


@dataclass(frozen=True)
class NoiseFloor:
    """The noise of one metric in the baseline, in the metric's unit.

    Attributes:
        seeds: finished seeds with a finite value.
        seeds_sd: the sample standard deviation over them; None below two.
        runs: the number of runs with enough validation points.
        points_sd: the standard deviation of a run's last points about their line, pooled over the runs; None without
            any.
    """

    metric: str
    seeds: int
    seeds_sd: float | None
    runs: int
    points_sd: float | None


def noise_floor(baseline: ArmResults, metric: str) -> NoiseFloor:
    """The noise of a metric in an arm's finished runs."""
    over_seeds = sample(baseline.values(metric))
    folders = [run.folder for run in baseline.runs.values() if run.finished and run.folder]
    tails = [at_end(last_points(folder.metrics_path, metric, POINTS)) for folder in folders]
    tails = [tail for tail in tails if len(tail) >= _FEWEST]
    return NoiseFloor(metric, over_seeds.n, over_seeds.sd, len(tails), spread_about_lines(tails))


def at_end(points: Tail) -> list[tuple[float, float]]:
    """Those of a run's last points (step, value), by step, that lie in the last quarter of its steps."""
    return [point for point in points if point[0] >= (1 - END) * points[-1][0]]


def spread_about_lines(tails: Iterable[Tail]) -> float | None:
    """The pooled standard deviation of points about the least-squares line of each tail; None without any.

    A tail of n points with different x has n - 2 degrees of freedom.
    """
    residuals: list[float] = []
    degrees = 0
    for tail in tails:
        if len(tail) < 3:
            continue
        x_mean, y_mean = mean_of([x for x, _ in tail]), mean_of([y for _, y in tail])
        xx = math.fsum((x - x_mean) ** 2 for x, _ in tail)
        if xx == 0:
            continue  # all at one x: no line goes through them
        slope = math.fsum((x - x_mean) * (y - y_mean) for x, y in tail) / xx
        residuals += [(y - y_mean) - slope * (x - x_mean) for x, y in tail]
        degrees += len(tail) - 2
    return math.hypot(*residuals) / math.sqrt(degrees) if degrees else None

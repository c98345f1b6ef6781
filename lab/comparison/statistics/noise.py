"""The noise floor: how much the baseline's own value varies between seeds, and between consecutive validations.

A smaller difference could be due to the seed, or to stopping a little earlier. Within a run, the noise is the spread of
the last validation points about a straight line through them, so that a loss that is still falling doesn't count as
noise (Heineman et al. 2025, arXiv 2508.13144, use the spread itself). Since the fall may be curved, only points of the
last quarter of training are used; runs with fewer than four points there are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.comparison.read.results import ArmResults
from lab.comparison.statistics.paired import mean_of, sample
from lab.records import last_points

POINTS = 5
"""The number of validation points at the end of a run that are used."""
END = 0.25
"""The last fraction of a run's steps, from which points are used."""
_FEWEST = 4  # with three points, a line leaves a single degree of freedom

Tail = Sequence[tuple[float, float]]
"""Points (x, y) at the end of a curve, ascending by x."""


@dataclass(frozen=True)
class NoiseFloor:
    """The noise of one metric in the baseline, in the metric's unit.

    Attributes:
        seeds: the number of finished seeds with a finite value.
        seeds_sd: the sample standard deviation over these seeds; None with fewer than two.
        runs: the number of runs with enough validation points.
        points_sd: the standard deviation of a run's last points about their line, pooled over these runs; None without
            such runs.
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
    """The points (step, value), ascending by step, that lie in the last quarter of the steps."""
    return [point for point in points if point[0] >= (1 - END) * points[-1][0]]


def spread_about_lines(tails: Iterable[Tail]) -> float | None:
    """The pooled standard deviation of points about the least-squares line of each tail.

    A tail of n points at different x has n - 2 degrees of freedom. None if no tail has any.
    """
    residuals: list[float] = []
    degrees = 0
    for tail in tails:
        if len(tail) < 3:
            continue
        x_mean, y_mean = mean_of([x for x, _ in tail]), mean_of([y for _, y in tail])
        xx = math.fsum((x - x_mean) ** 2 for x, _ in tail)
        if xx == 0:
            continue  # all points at one x: no line can be fitted
        slope = math.fsum((x - x_mean) * (y - y_mean) for x, y in tail) / xx
        residuals += [(y - y_mean) - slope * (x - x_mean) for x, y in tail]
        degrees += len(tail) - 2
    return math.hypot(*residuals) / math.sqrt(degrees) if degrees else None

"""Curves of runs over steps, tokens, FLOPs or seconds: their mean over seeds with a band, and their differences.

Several curves are first aligned at common x. Over steps and tokens these are the points that all curves have. FLOPs and
seconds differ between architectures and machines: there, the x of the curve with the fewest points are used, and the
other curves are interpolated linearly. Nothing is extrapolated.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lab.comparison.read.results import ArmResults, RunResult
from lab.records import BrokenRecord, Points

if TYPE_CHECKING:
    import numpy as np

X = Literal["step", "tokens", "flops", "seconds"]

_SHARED_AXES = ("step", "tokens")  # runs of every architecture record their points at the same values
_UNFINISHED = ("queued", "running", "preempted")
# What reading a file that was edited by hand may raise.
_READ_ERRORS = (BrokenRecord, AttributeError, KeyError, TypeError, ValueError, OverflowError)


@dataclass(frozen=True)
class MetricCurve:
    """One run's values of one metric.

    Attributes:
        x: ascending.
        y: finite values, one for each x.
        axis: the quantity of x; it decides how curves are aligned.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    axis: X = "tokens"

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Band:
    """A mean over seeds, with its t interval at every x.

    Attributes:
        x: ascending; within the range of every seed.
        low: the lower ends of the intervals; None with fewer than two seeds.
        high: the upper ends.
        seeds: the seeds that have points, ascending; for a difference, those that have points in the arm and in the
            baseline.
    """

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    seeds: tuple[int, ...]


def run_curve(run: RunResult, metric: str, x: X = "tokens") -> MetricCurve:
    """A run's curve of a metric, from its metrics.jsonl; empty if the metric or the axis isn't recorded."""
    return run_curves(run, (metric,), (x,))[metric, x]


def run_curves(run: RunResult, metrics: Sequence[str], axes: Sequence[X]) -> dict[tuple[str, X], MetricCurve]:
    """A run's curves of several metrics over several axes, from one pass over its metrics.jsonl.

    Tokens are steps times the run's tokens per step. FLOPs are tokens times the training FLOPs per token, including a
    teacher's forward passes. Seconds are training time, as recorded. If the clock was set back, the points until the
    time exceeds its earlier maximum are left out.

    Returns:
        (metric, axis) → curve.
    """
    if run.folder is None:
        return {(metric, axis): MetricCurve((), (), axis) for metric in metrics for axis in axes}
    points = Points(run.folder.metrics_path, metrics)
    values = {metric: points.values(metric) for metric in metrics}
    curves = {}
    for axis in axes:
        coordinates = _coordinates(run, points, axis) if any(values.values()) else None
        for metric, metric_values in values.items():
            curves[metric, axis] = _curve(metric_values, coordinates, axis)
    return curves


def _curve(values: Mapping[float, float], coordinates: float | Mapping[float, float] | None, axis: X) -> MetricCurve:
    """The curve of a metric (step → value).

    Args:
        coordinates: as `_coordinates` returns them.
    """
    if isinstance(coordinates, float | int):
        per_step = coordinates
        if values and not all(math.isfinite(step * per_step) for step in (min(values), max(values))):
            values = {step: value for step, value in values.items() if math.isfinite(step * per_step)}
        return MetricCurve(tuple([step * per_step for step in values]), tuple(values.values()), axis)
    points: list[tuple[float, float]] = []
    for step, value in values.items():
        if coordinates and step in coordinates and (not points or coordinates[step] > points[-1][0]):
            points.append((coordinates[step], value))
    return MetricCurve(tuple(x for x, _ in points), tuple(y for _, y in points), axis)


def averaged_runs(arm: ArmResults) -> dict[int, RunResult]:
    """The runs that an arm's mean curve averages, by seed.

    These are the finished runs and, while fewer than two have finished, the unfinished ones as well: later, the short
    curve of an unfinished run would cut the mean short. Runs that diverged, failed or were cancelled are in no mean.
    """
    finished = {seed: run for seed, run in arm.runs.items() if run.finished}
    if len(finished) > 1:
        return finished
    return {seed: run for seed, run in arm.runs.items() if run.finished or run.status in _UNFINISHED}


def band(curves: Mapping[int, MetricCurve], level: float = 0.95) -> Band:
    """The mean over seeds (seed → curve) with its t interval, at every x at which all seeds have a value.

    Raises:
        ValueError: the level isn't between 0 and 1, or the curves are over different axes.
    """
    seeds = sorted(seed for seed, curve in curves.items() if len(curve))
    x, y = _align([curves[seed] for seed in seeds])
    return _band(x, y, seeds, level)


def difference(arm: Mapping[int, MetricCurve], baseline: Mapping[int, MetricCurve], level: float = 0.95) -> Band:
    """The mean of arm - baseline, paired over the seeds that both have, with its t interval at every x.

    Raises:
        ValueError: as for `band`.
    """
    seeds = sorted(seed for seed in set(arm) & set(baseline) if len(arm[seed]) and len(baseline[seed]))
    x, y = _align([arm[seed] for seed in seeds] + [baseline[seed] for seed in seeds])
    return _band(x, y[: len(seeds)] - y[len(seeds) :], seeds, level)


def _band(x: np.ndarray, y: np.ndarray, seeds: Sequence[int], level: float) -> Band:
    """The band of values y [seeds, points] at x [points]."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, such as 0.95, got {level!r}")
    if not seeds:
        return Band((), (), None, None, ())
    n, xs, mean = len(seeds), tuple(x.tolist()), y.mean(axis=0)
    if n == 1:
        return Band(xs, tuple(mean.tolist()), None, None, tuple(seeds))
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, (1 + level) / 2)) * y.std(axis=0, ddof=1) / n**0.5
    low, high = tuple((mean - half).tolist()), tuple((mean + half).tolist())
    return Band(xs, tuple(mean.tolist()), low, high, tuple(seeds))


def _align(curves: Sequence[MetricCurve]) -> tuple[np.ndarray, np.ndarray]:
    """Common x of the curves [points], and the curves' values there [curves, points]."""
    import numpy as np

    if len({curve.axis for curve in curves}) > 1:
        raise ValueError(f"curves over {' and '.join(sorted({curve.axis for curve in curves}))} can't be joined")
    if not curves:
        return np.empty(0), np.empty((0, 0))
    first = curves[0]
    if all(curve.x == first.x for curve in curves):
        return np.asarray(first.x, dtype=float), np.array([curve.y for curve in curves], dtype=float)
    if first.axis in _SHARED_AXES:
        x = np.array(sorted(set(first.x).intersection(*(curve.x for curve in curves))), dtype=float)
    else:
        start, end = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
        sparsest = min(curves, key=len)
        x = np.array([value for value in sparsest.x if start <= value <= end])
    return x, np.array([np.interp(x, curve.x, curve.y) for curve in curves])


def _coordinates(run: RunResult, points: Points, axis: X) -> float | dict[float, float] | None:
    """Each step's coordinate on the axis: a factor for all steps, or step → coordinate; None if not recorded."""
    if axis == "step":
        return 1
    if axis == "seconds":
        return points.seconds()
    tokens = points.tokens_per_step() or _tokens_per_step(run)
    per_token = 1.0 if axis == "tokens" else _flops_per_token(run)
    if tokens is None or per_token is None:
        return None
    per_step = tokens * per_token
    return per_step if 0 < per_step < math.inf else None


def _tokens_per_step(run: RunResult) -> float | None:
    """From the run's costs or its configuration, for points that don't record it."""
    tokens, steps = run.costs.get("tokens"), run.costs.get("steps")
    if tokens and steps and math.isfinite(tokens / steps):
        return tokens / steps
    assert run.folder is not None
    with contextlib.suppress(*_READ_ERRORS):
        train = run.folder.config["train"]
        return float(int(train["context"]) * int(train["global_batch"]))
    return None


def _flops_per_token(run: RunResult) -> float | None:
    """Training FLOPs per token, including those of the teachers' forward passes; None if run.json lacks them."""
    assert run.folder is not None
    with contextlib.suppress(*_READ_ERRORS):
        record = run.folder.record
        return record.costs["flops_per_token"] + sum(need.flops_per_token for need in record.needs)
    return None

"""Curves of runs over steps, tokens, FLOPs or seconds; their mean over seeds with its band, and their differences.

Nothing is extrapolated. Over steps and tokens, curves are joined at the points that all of them have. FLOPs and seconds
differ between architectures and machines: there, curves are joined at the points of the sparsest one, and the others'
values are interpolated on straight lines between neighbouring points.
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

_SHARED_AXES = ("step", "tokens")  # on which the same run of points means the same for every architecture
_UNDER_WAY = ("queued", "running", "preempted")
_UNREADABLE = (BrokenRecord, AttributeError, KeyError, TypeError, ValueError, OverflowError)  # of files edited by hand


@dataclass(frozen=True)
class MetricCurve:
    """One run's values of one metric.

    Attributes:
        x: ascending.
        y: finite, one for each x.
        axis: what x is; it decides how curves are joined.
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
        low: the lower end of the interval; None below two seeds.
        high: the upper end.
        seeds: the seeds with a point, ascending; for a difference, those with a point in the arm and in the baseline.
    """

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    seeds: tuple[int, ...]


def run_curve(run: RunResult, metric: str, x: X = "tokens") -> MetricCurve:
    """A run's curve of a metric from its metrics.jsonl; empty if it recorded none, or doesn't say what x is."""
    return run_curves(run, (metric,), (x,))[metric, x]


def run_curves(run: RunResult, metrics: Sequence[str], axes: Sequence[X]) -> dict[tuple[str, X], MetricCurve]:
    """(metric, axis) → the run's curve: several from one reading of the file.

    Tokens are steps times the run's tokens per step. FLOPs are tokens times the FLOPs per token of training, with those
    of a teacher's forward passes. Seconds are those of training, as recorded. If the clock was set back, points are
    left out until the time is past what it had reached.
    """
    if run.folder is None:
        return {(metric, axis): MetricCurve((), (), axis) for metric in metrics for axis in axes}
    points = Points(run.folder.metrics_path, metrics)
    values = {metric: points.values(metric) for metric in metrics}
    curves = {}
    for axis in axes:
        place = _places(run, points, axis) if any(values.values()) else None
        for metric, of_metric in values.items():
            curves[metric, axis] = _curve(of_metric, place, axis)
    return curves


def _curve(values: Mapping[float, float], place: float | Mapping[float, float] | None, axis: X) -> MetricCurve:
    """The curve of a metric (step → value).

    Args:
        place: what a step is worth on the axis, or the place of each step on it; None if the run doesn't say.
    """
    if isinstance(place, float | int):
        if values and not all(math.isfinite(step * place) for step in (min(values), max(values))):
            values = {step: value for step, value in values.items() if math.isfinite(step * place)}
        return MetricCurve(tuple([step * place for step in values]), tuple(values.values()), axis)
    points: list[tuple[float, float]] = []
    for step, value in values.items():
        if place and step in place and (not points or place[step] > points[-1][0]):
            points.append((place[step], value))
    return MetricCurve(tuple(x for x, _ in points), tuple(y for _, y in points), axis)


def averaged_runs(arm: ArmResults) -> dict[int, RunResult]:
    """The runs that an arm's mean curve is over: the finished ones; before two have finished, those under way as well.

    Runs that diverged, failed or were given up are in no mean, however good their curve looked. Once two have finished,
    the curve of a run that is under way would cut their mean short.
    """
    finished = {seed: run for seed, run in arm.runs.items() if run.finished}
    if len(finished) > 1:
        return finished
    return {seed: run for seed, run in arm.runs.items() if run.finished or run.status in _UNDER_WAY}


def band(curves: Mapping[int, MetricCurve], level: float = 0.95) -> Band:
    """The mean over seeds (seed → curve) with its t interval, wherever all seeds have a value.

    Raises:
        ValueError: the level isn't between 0 and 1, or the curves are over different axes.
    """
    seeds = sorted(seed for seed, curve in curves.items() if len(curve))
    x, y = _join([curves[seed] for seed in seeds])
    return _band(x, y, seeds, level)


def difference(arm: Mapping[int, MetricCurve], baseline: Mapping[int, MetricCurve], level: float = 0.95) -> Band:
    """The mean of arm - baseline over the seeds that both have, paired, with its t interval at every x.

    Raises:
        ValueError: as for `band`.
    """
    seeds = sorted(seed for seed in set(arm) & set(baseline) if len(arm[seed]) and len(baseline[seed]))
    x, y = _join([arm[seed] for seed in seeds] + [baseline[seed] for seed in seeds])
    return _band(x, y[: len(seeds)] - y[len(seeds) :], seeds, level)


def _band(x: np.ndarray, y: np.ndarray, seeds: Sequence[int], level: float) -> Band:
    """From values [seeds, points]."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, such as 0.95, got {level!r}")
    if not seeds:
        return Band((), (), None, None, ())
    n, places, mean = len(seeds), tuple(x.tolist()), y.mean(axis=0)
    if n == 1:
        return Band(places, tuple(mean.tolist()), None, None, tuple(seeds))
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, (1 + level) / 2)) * y.std(axis=0, ddof=1) / n**0.5
    low, high = tuple((mean - half).tolist()), tuple((mean + half).tolist())
    return Band(places, tuple(mean.tolist()), low, high, tuple(seeds))


def _join(curves: Sequence[MetricCurve]) -> tuple[np.ndarray, np.ndarray]:
    """The x at which curves are joined, and their values there [curves, points]."""
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
        x = np.array([place for place in sparsest.x if start <= place <= end])
    return x, np.array([np.interp(x, curve.x, curve.y) for curve in curves])


def _places(run: RunResult, points: Points, axis: X) -> float | dict[float, float] | None:
    """What a step is worth on the axis, or the place of each step on it; None if the run doesn't say."""
    if axis == "step":
        return 1
    if axis == "seconds":
        return points.seconds()
    tokens = points.tokens_per_step() or _tokens_per_step(run)
    per_token = 1.0 if axis == "tokens" else _flops_per_token(run)
    if tokens is None or per_token is None:
        return None
    worth = tokens * per_token
    return worth if 0 < worth < math.inf else None


def _tokens_per_step(run: RunResult) -> float | None:
    """From the run's costs or its configuration, for a run whose points don't say, as those of evaluations."""
    tokens, steps = run.costs.get("tokens"), run.costs.get("steps")
    if tokens and steps and math.isfinite(tokens / steps):
        return tokens / steps
    assert run.folder is not None
    with contextlib.suppress(*_UNREADABLE):
        train = run.folder.config["train"]
        return float(int(train["context"]) * int(train["global_batch"]))
    return None


def _flops_per_token(run: RunResult) -> float | None:
    """Those of the model's training and of using the runs that it learns from; None if run.json has none."""
    assert run.folder is not None
    with contextlib.suppress(*_UNREADABLE):
        record = run.folder.record
        return record.costs["flops_per_token"] + sum(need.flops_per_token for need in record.needs)
    return None

"""Curves of runs over steps, tokens, FLOPs or seconds; their mean with its band over seeds, and their differences.

Nothing is extrapolated. Over steps and tokens, curves are joined on the points that all of them have; over FLOPs and
seconds, which differ between architectures and machines, on the points of the sparsest curve, the others' values lying
on straight lines between their neighbouring points.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lab.comparison.read.points import Points, is_finite
from lab.comparison.read.results import Arm, Run
from lab.records import BrokenRun

if TYPE_CHECKING:
    import numpy as np

X = Literal["step", "tokens", "flops", "seconds"]

_COUNTED = ("step", "tokens")
_UNDER_WAY = ("queued", "running", "preempted")
_UNREADABLE = (BrokenRun, AttributeError, KeyError, TypeError, ValueError, OverflowError)  # of files edited by hand


@dataclass(frozen=True)
class Curve:
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
        x: ascending; inside the range of every counted seed.
        low: lower end of the interval; None below two seeds.
        high: as `low`, the upper end.
        seeds: those counted, ascending: the ones with a point (for a difference, in the arm and in the baseline).
    """

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    seeds: tuple[int, ...]


def run_curve(run: Run, metric: str, x: X = "tokens") -> Curve:
    """A run's curve of a metric from its metrics.jsonl; empty where it recorded none, or doesn't say what x is."""
    return run_curves(run, (metric,), (x,))[metric, x]


def run_curves(run: Run, metrics: Sequence[str], axes: Sequence[X]) -> dict[tuple[str, X], Curve]:
    """(metric, axis) → the run's curve: several from one reading of the file.

    Tokens are steps times the run's tokens per step. FLOPs are tokens times the FLOPs per token of training, those of
    a teacher's forward passes included. Seconds are those of training, as recorded; where a later step has an earlier
    time, or the same, as after a clock that was set back, it is left out until the time is past what was reached.
    """
    if run.folder is None:
        return {(metric, axis): Curve((), (), axis) for metric in metrics for axis in axes}
    points = Points(run.folder.path / "metrics.jsonl", metrics)
    values = {metric: points.values(metric) for metric in metrics}
    found = {}
    for axis in axes:
        place = _places(run, points, axis) if any(values.values()) else None
        for metric, measured in values.items():
            found[metric, axis] = _placed(measured, place, axis)
    return found


def _placed(measured: Mapping[float, float], place: float | Mapping[float, float] | None, axis: X) -> Curve:
    if isinstance(place, float | int):
        if measured and not all(math.isfinite(step * place) for step in (min(measured), max(measured))):
            measured = {step: value for step, value in measured.items() if math.isfinite(step * place)}
        return Curve(tuple([step * place for step in measured]), tuple(measured.values()), axis)
    shown: list[tuple[float, float]] = []
    for step, value in measured.items():
        if place and step in place and (not shown or place[step] > shown[-1][0]):
            shown.append((place[step], value))
    return Curve(tuple(x for x, _ in shown), tuple(y for _, y in shown), axis)


def counted(arm: Arm) -> dict[int, Run]:
    """The runs of an arm that its mean curve is over: the finished ones, from two on; before, those under way as well.

    A run that diverged, failed or was given up is in no mean, however good its curve looked; the curve of one that is
    under way would cut the mean of finished ones short.
    """
    finished = {seed: run for seed, run in arm.runs.items() if run.finished}
    if len(finished) > 1:
        return finished
    return {seed: run for seed, run in arm.runs.items() if run.finished or run.status in _UNDER_WAY}


def arm_curves(arm: Arm, metric: str, x: X = "tokens") -> dict[int, Curve]:
    """Seed → curve of the runs that the arm's mean is over (`counted`), those that have a point."""
    found = {seed: run_curve(run, metric, x) for seed, run in counted(arm).items()}
    return {seed: curve for seed, curve in found.items() if len(curve)}


def band(curves: Mapping[int, Curve], level: float = 0.95) -> Band:
    """The mean over seeds (seed → curve) where all have a value, with its t interval, and a float holds them.

    Raises:
        ValueError: the level isn't between 0 and 1, or the curves are over different axes.
    """
    seeds = sorted(seed for seed, curve in curves.items() if len(curve))
    x, y = _joined([curves[seed] for seed in seeds])
    return _band(x, y, seeds, level)


def difference(arm: Mapping[int, Curve], baseline: Mapping[int, Curve], level: float = 0.95) -> Band:
    """The mean of arm - baseline over the seeds that both have, paired, with its paired t interval at every x.

    Raises:
        ValueError: as for `band`.
    """
    import numpy as np

    seeds = sorted(seed for seed in set(arm) & set(baseline) if len(arm[seed]) and len(baseline[seed]))
    x, y = _joined([arm[seed] for seed in seeds] + [baseline[seed] for seed in seeds])
    with np.errstate(over="ignore"):
        apart = y[: len(seeds)] - y[len(seeds) :]
    return _band(x, apart, seeds, level)


def _band(x: np.ndarray, y: np.ndarray, seeds: Sequence[int], level: float) -> Band:
    """From values [seeds, points]."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, such as 0.95, got {level!r}")
    if not seeds:
        return Band((), (), None, None, ())
    import numpy as np

    n = len(seeds)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, half = y.mean(axis=0), np.zeros(y.shape[1])
        if n > 1:
            from scipy.special import stdtrit

            # Over a power of two, so that no square overflows: exact.
            power = np.frexp(abs(y).max(axis=0))[1]
            spread = np.ldexp(np.ldexp(y, -power).std(axis=0, ddof=1), power)
            half = float(stdtrit(n - 1, (1 + level) / 2)) * spread / n**0.5
        low, high = mean - half, mean + half
    known = np.isfinite(low) & np.isfinite(high)
    ends = [tuple(end[known].tolist()) if n > 1 else None for end in (low, high)]
    return Band(tuple(x[known].tolist()), tuple(mean[known].tolist()), ends[0], ends[1], tuple(seeds))


def _joined(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """The x that curves are joined on, and their values there [curves, points]."""
    import numpy as np

    if len({curve.axis for curve in curves}) > 1:
        raise ValueError(f"curves over {' and '.join(sorted({curve.axis for curve in curves}))} can't be joined")
    if not curves:
        return np.empty(0), np.empty((0, 0))
    first = curves[0]
    if all(curve.x == first.x for curve in curves):
        return np.asarray(first.x, dtype=float), np.array([curve.y for curve in curves], dtype=float)
    if first.axis in _COUNTED:
        x = np.array(sorted(set(first.x).intersection(*(curve.x for curve in curves))), dtype=float)
    else:
        start, end = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
        sparsest = min(curves, key=len)
        x = np.array([place for place in sparsest.x if start <= place <= end])
    return x, np.array([np.interp(x, curve.x, curve.y) for curve in curves])


def _places(run: Run, points: Points, axis: X) -> float | dict[float, float] | None:
    """What a step is worth on the axis, or the place of each step on it; None where the run doesn't say."""
    if axis == "step":
        return 1
    if axis == "seconds":
        return points.seconds()
    tokens = points.tokens_per_step() or _configured(run)
    flops_per_token = 1.0 if axis == "tokens" else _flops_per_token(run)
    if tokens is None or flops_per_token is None:
        return None
    worth = tokens * flops_per_token
    return worth if 0 < worth < math.inf else None


def _configured(run: Run) -> float | None:
    """Tokens per step of a run whose points don't say, as those of evaluations."""
    tokens, steps = run.costs.get("tokens"), run.costs.get("steps")
    if is_finite(tokens) and is_finite(steps) and steps:
        return float(tokens) / float(steps)
    assert run.folder is not None
    with contextlib.suppress(*_UNREADABLE):
        train = run.folder.config["train"]
        return float(int(train["context"]) * int(train["global_batch"]))
    return None


def _flops_per_token(run: Run) -> float | None:
    """Those of the model's training and of using the runs that it learns from; None where run.json has none."""
    assert run.folder is not None
    with contextlib.suppress(*_UNREADABLE):
        info = run.folder.info
        needs = sum(float(need.get("flops_per_token") or 0) for need in info.get("needs") or ())
        return float(info["costs"]["flops_per_token"]) + needs
    return None

"""Curves that TensorBoard itself doesn't have: an arm's mean over its seeds and its difference from the baseline, both
with their bands, over tokens and over FLOPs. They are event files of the view, whose steps are tokens or FLOPs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lab.comparison.read.curves import Band, MetricCurve, X, averaged_runs, band, difference, run_curves
from lab.comparison.read.results import ArmResults, RunResult, SweepResults
from lab.comparison.tensorboard.custom_scalars import margin
from lab.comparison.tensorboard.event_files import EventRecord, event_file, scalars

MOST_POINTS = 100
"""In one curve. A chart shows no more, and a thousand runs' would take minutes to write."""

_MOST_STEPS = 2.0**62  # steps are 64-bit integers
_VERSION = 2  # of the files' content; files of another version are made again
_LEVEL = 0.95
_UNITS = ((1e18, "EFLOPs"), (1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"))
_AXES: tuple[X, ...] = ("tokens", "flops")

Curves = Mapping[tuple[str, X], Mapping[int, MetricCurve]]
"""(metric, axis) → seed → curve."""


class Unit(NamedTuple):
    """What one step of a curve over FLOPs stands for."""

    flops: float
    name: str

    @property
    def axes(self) -> tuple[str, str]:
        """The axes that curves are over, by their names in tags."""
        return "tokens", self.name


def unit(sweeps: Sequence[SweepResults]) -> Unit:
    """The unit of FLOPs, so that steps are whole numbers: the largest in which the longest run takes 100,000.

    MFLOPs if no run's budget is known.
    """
    longest = max((_total_flops(arm) for sweep in sweeps for arm in sweep.arms.values()), default=0.0)
    return Unit(*next((unit for unit in _UNITS if longest >= 1e5 * unit[0]), _UNITS[-1]))


def _total_flops(arm: ArmResults) -> float:
    if "total_flops" in arm.costs:
        return arm.costs["total_flops"]
    tokens = max((run.costs.get("tokens", 0.0) for run in arm.runs.values()), default=0.0)
    return arm.costs.get("flops_per_token", 0.0) * tokens


class Bands:
    """The files of one sweep's arms.

    Args:
        unit: of the FLOPs; the same for a whole view.
    """

    def __init__(self, sweep: SweepResults, unit: Unit) -> None:
        self._metrics = sweep.metrics
        self._unit = unit
        self._baseline = sweep.arms.get(sweep.baseline)
        self._baseline_curves: Curves | None = None

    def key(self, arm: ArmResults) -> str:
        """A digest of everything that an arm's file depends on: a file with the same key needn't be made again."""
        runs = [*averaged_runs(arm).values(), *(averaged_runs(self._baseline).values() if self._baseline else ())]
        content = [
            _VERSION,
            self._metrics,
            self._unit,
            self._baseline is arm,
            [(seed, run.status) for seed, run in arm.runs.items()],
            [[run.identity, run.status, *_file_state(run)] for run in runs],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def file(self, arm: ArmResults, time: float) -> bytes | None:
        """The event file of an arm's mean and of its difference from the baseline.

        None if no metric has a curve of two points.
        """
        curves = self._curves(arm)
        records = []
        for axis, name, size in zip(_AXES, self._unit.axes, (1.0, self._unit.flops), strict=True):
            values: dict[int, dict[str, float]] = {}  # step → tag → value
            descriptions: dict[str, str] = {}
            for metric in self._metrics:
                for kind, of_kind in self._bands(arm, curves, metric, axis).items():
                    if len(of_kind.x) < 2:  # a metric that is measured at the end alone has no curve
                        continue
                    tags = margin(kind, name, metric)
                    descriptions |= dict.fromkeys(tags, _description(arm, of_kind))
                    for step, point in _points(of_kind, size):
                        values.setdefault(step, {}).update(zip(tags, point, strict=True))
            for step, of_step in sorted(values.items()):
                records.append(EventRecord(step, scalars(of_step, descriptions)))
                # A description stands with the first point alone.
                descriptions = {tag: text for tag, text in descriptions.items() if tag not in of_step}
        return event_file(time, records) if records else None

    def _bands(self, arm: ArmResults, curves: Curves, metric: str, axis: X) -> dict[str, Band]:
        """The mean and, except for the baseline, the difference from the baseline."""
        bands = {"mean": band(curves[metric, axis], _LEVEL)}
        if self._baseline is not None and arm is not self._baseline:
            if self._baseline_curves is None:
                self._baseline_curves = self._curves(self._baseline)
            bands["difference"] = difference(curves[metric, axis], self._baseline_curves[metric, axis], _LEVEL)
        return bands

    def _curves(self, arm: ArmResults) -> Curves:
        curves: dict[tuple[str, X], dict[int, MetricCurve]] = {
            (metric, axis): {} for metric in self._metrics for axis in _AXES
        }
        for seed, run in averaged_runs(arm).items():
            for key, curve in run_curves(run, self._metrics, _AXES).items():
                curves[key][seed] = curve
        return curves


def _points(band: Band, size: float) -> list[tuple[int, tuple[float, float, float]]]:
    """(step, (mean, low, high)) of at most `MOST_POINTS` points, the first and the last among them.

    One seed has no band: both ends lie on the mean, since TensorBoard draws no chart without them.
    """
    n = len(band.x)
    places: Sequence[int] = range(n)
    if n > MOST_POINTS:
        places = sorted({round(i * (n - 1) / (MOST_POINTS - 1)) for i in range(MOST_POINTS)})
    low, high = band.low or band.mean, band.high or band.mean
    points = {
        round(band.x[i] / size): (band.mean[i], low[i], high[i]) for i in places if abs(band.x[i]) < _MOST_STEPS * size
    }
    return sorted(points.items())


def _description(arm: ArmResults, band: Band) -> str:
    """The text beside an arm's curve: which seeds it is over, and the status of the others."""
    others = [f"seed {seed} {run.status}" for seed, run in arm.runs.items() if not run.finished]
    return "; ".join(
        [
            f"{len(band.seeds)} of {len(arm.runs)} seeds ({', '.join(map(str, band.seeds))})",
            "95% t interval" if band.low else "one seed has no interval",
            *others,
        ]
    )


def _file_state(run: RunResult) -> tuple[int, ...]:
    """Size and time of change, in nanoseconds, of the file with a run's curves; empty if there is none."""
    if run.folder is None:
        return ()
    try:
        state = run.folder.metrics_path.stat()
    except OSError:
        return ()
    return state.st_size, state.st_mtime_ns


def last_change(arm: ArmResults) -> float:
    """When a curve of the arm was last added to, in unix seconds; 0 if none has begun."""
    states = [_file_state(run) for run in averaged_runs(arm).values()]
    return max((state[1] / 1e9 for state in states if state), default=0.0)

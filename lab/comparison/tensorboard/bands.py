"""Curves that TensorBoard can't compute: an arm's mean over its seeds and its difference from the baseline.

Both come with bands, over tokens and over FLOPs. They are written as event files whose steps are tokens or FLOPs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lab.comparison.compare import Comparison
from lab.comparison.read.curves import Band, MetricCurve, X, averaged_runs, band, difference, run_curves
from lab.comparison.read.results import ArmResults, RunResult, SweepResults
from lab.comparison.tensorboard.custom_scalars import margin
from lab.comparison.tensorboard.event_files import EventRecord, event_file, scalars

POINTS_PER_CURVE = 100
"""The most points of one curve: a chart shows no more, and with a thousand runs, writing more would take minutes."""

_MOST_STEPS = 2.0**62  # steps are 64-bit integers
_VERSION = 3  # of the files' content; files of another version are written again
_LEVEL = 0.95
_UNITS = ((1e18, "EFLOPs"), (1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"))
_AXES: tuple[X, ...] = ("tokens", "flops")

Curves = Mapping[tuple[str, X], Mapping[int, MetricCurve]]
"""(metric, axis) → seed → curve."""


class Unit(NamedTuple):
    """The FLOPs that one step of a curve over FLOPs stands for."""

    flops: float
    name: str

    @property
    def axes(self) -> tuple[str, str]:
        """The names in tags of the axes that curves are over."""
        return "tokens", self.name


def unit(sweeps: Sequence[SweepResults]) -> Unit:
    """The unit of FLOPs: the largest in which the longest run takes at least 100,000 steps.

    Steps are whole numbers, so a larger unit would merge points. MFLOPs if no run's budget is known.
    """
    longest = max((_total_flops(arm) for sweep in sweeps for arm in sweep.arms.values()), default=0.0)
    return Unit(*next((unit for unit in _UNITS if longest >= 1e5 * unit[0]), _UNITS[-1]))


def _total_flops(arm: ArmResults) -> float:
    if "total_flops" in arm.costs:
        return arm.costs["total_flops"]
    tokens = max((run.costs.get("tokens", 0.0) for run in arm.runs.values()), default=0.0)
    return arm.costs.get("flops_per_token", 0.0) * tokens


class Bands:
    """Writes the event files of one sweep's arms.

    Args:
        comparison: the sweep's comparison. An arm has no difference in a metric that can't be compared.
        unit: the unit of FLOPs, which all sweeps of a view share.
    """

    def __init__(self, comparison: Comparison, unit: Unit) -> None:
        sweep = comparison.sweep
        self._metrics = sweep.metrics
        self._unlike = comparison.unlike
        self._mixed = {row.arm.name: row.mixtures for row in comparison.rows if row.mixtures}
        self._unit = unit
        self._baseline = sweep.arms.get(sweep.baseline)
        self._baseline_curves: Curves | None = None

    def key(self, arm: ArmResults) -> str:
        """A digest of everything that an arm's file depends on: a file with the same key needn't be rewritten."""
        runs = [*averaged_runs(arm).values(), *(averaged_runs(self._baseline).values() if self._baseline else ())]
        content = [
            _VERSION,
            self._metrics,
            self._unit,
            self._baseline is arm,
            [metric for metric in self._metrics if arm.name in self._unlike[metric]],
            [mixture.text for mixture in self._mixed.get(arm.name, ())],
            [(seed, run.status) for seed, run in arm.runs.items()],
            [[run.identity, run.status, *_file_state(run)] for run in runs],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def file(self, arm: ArmResults, time: float) -> bytes | None:
        """The event file with an arm's mean and its difference from the baseline.

        Args:
            arm: the arm.
            time: the time of all events, in unix seconds.

        Returns:
            The file's content; None if no metric has a curve of at least two points.
        """
        curves = self._curves(arm)
        records = []
        for axis, name, size in zip(_AXES, self._unit.axes, (1.0, self._unit.flops), strict=True):
            values: dict[int, dict[str, float]] = {}  # step → tag → value
            descriptions: dict[str, str] = {}
            for metric in self._metrics:
                for kind, curve_band in self._bands(arm, curves, metric, axis).items():
                    if len(curve_band.x) < 2:  # a metric that is measured only at the end has no curve
                        continue
                    tags = margin(kind, name, metric)
                    descriptions |= dict.fromkeys(tags, self._description(arm, curve_band))
                    for step, point in _points(curve_band, size):
                        values.setdefault(step, {}).update(zip(tags, point, strict=True))
            for step, step_values in sorted(values.items()):
                records.append(EventRecord(step, scalars(step_values, descriptions)))
                # Only the first point of a tag carries its description.
                descriptions = {tag: text for tag, text in descriptions.items() if tag not in step_values}
        return event_file(time, records) if records else None

    def _bands(self, arm: ArmResults, curves: Curves, metric: str, axis: X) -> dict[str, Band]:
        """The mean and, except for the baseline, the difference from the baseline."""
        bands = {"mean": band(curves[metric, axis], _LEVEL)}
        if self._baseline is not None and arm is not self._baseline and arm.name not in self._unlike[metric]:
            if self._baseline_curves is None:
                self._baseline_curves = self._curves(self._baseline)
            bands["difference"] = difference(curves[metric, axis], self._baseline_curves[metric, axis], _LEVEL)
        return bands

    def _description(self, arm: ArmResults, band: Band) -> str:
        """The text beside an arm's curve: the seeds that it averages, what they mix, and the status of the others."""
        return "; ".join(
            [
                f"{len(band.seeds)} of {len(arm.runs)} seeds ({', '.join(map(str, band.seeds))})",
                "95% t interval" if band.low else "one seed, so no interval",
                *(f"mixed {mixture.text}" for mixture in self._mixed.get(arm.name, ())),
                *(f"seed {seed} {run.status}" for seed, run in arm.runs.items() if not run.finished),
            ]
        )

    def _curves(self, arm: ArmResults) -> Curves:
        curves: dict[tuple[str, X], dict[int, MetricCurve]] = {
            (metric, axis): {} for metric in self._metrics for axis in _AXES
        }
        for seed, run in averaged_runs(arm).items():
            for key, curve in run_curves(run, self._metrics, _AXES).items():
                curves[key][seed] = curve
        return curves


def _points(band: Band, size: float) -> list[tuple[int, tuple[float, float, float]]]:
    """(step, (mean, low, high)) of at most `POINTS_PER_CURVE` evenly spaced points, with the first and the last.

    A single seed has no band: low and high equal the mean, since TensorBoard draws no chart without them.
    """
    n = len(band.x)
    indices: Sequence[int] = range(n)
    if n > POINTS_PER_CURVE:
        indices = sorted({round(i * (n - 1) / (POINTS_PER_CURVE - 1)) for i in range(POINTS_PER_CURVE)})
    low, high = band.low or band.mean, band.high or band.mean
    points = {
        round(band.x[i] / size): (band.mean[i], low[i], high[i]) for i in indices if abs(band.x[i]) < _MOST_STEPS * size
    }
    return sorted(points.items())


def _file_state(run: RunResult) -> tuple[int, ...]:
    """Size in bytes and modification time in nanoseconds of the file with a run's curves; empty if there is none."""
    if run.folder is None:
        return ()
    try:
        state = run.folder.metrics_path.stat()
    except OSError:
        return ()
    return state.st_size, state.st_mtime_ns


def last_change(arm: ArmResults) -> float:
    """When a curve of the arm last changed, in unix seconds; 0 if the arm has no curve yet."""
    states = [_file_state(run) for run in averaged_runs(arm).values()]
    return max((state[1] / 1e9 for state in states if state), default=0.0)

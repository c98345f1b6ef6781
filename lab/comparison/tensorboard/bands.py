"""The curves that TensorBoard has no notion of: an arm's mean over its seeds, its difference from the baseline, both
with their bands, over tokens and over FLOPs. They are event files of the view, whose steps are tokens or FLOPs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from lab.comparison.read.curves import Band, Curve, X, band, counted, difference, run_curves
from lab.comparison.read.results import Arm, Run, Sweep
from lab.comparison.tensorboard.custom_scalars import margin
from lab.comparison.tensorboard.event_files import Record, event_file, scalars

MOST_POINTS = 100
"""Of one curve: more can't be told apart in a chart, and a thousand runs' would take minutes to write."""

_MOST = 2.0**62  # steps are 64-bit integers
_FORM = 2  # of the files; a view that stands has none of another
_LEVEL = 0.95
_UNITS = ((1e18, "EFLOPs"), (1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"))

Curves = dict[tuple[str, X], dict[int, Curve]]  # (metric, axis) → seed → curve


class Unit(NamedTuple):
    """What one step of a curve over FLOPs stands for."""

    flops: float
    name: str

    @property
    def axes(self) -> tuple[str, str]:
        """The axes that curves are over, by the names that their tags have."""
        return "tokens", self.name


def unit(sweeps: Sequence[Sweep]) -> Unit:
    """The unit of FLOPs, a step being a whole number of them: the largest in which the longest run takes 100,000.

    MFLOPs where no run's budget is known.
    """
    longest = max((_total_flops(arm) for sweep in sweeps for arm in sweep.arms.values()), default=0.0)
    return Unit(*next((each for each in _UNITS if longest >= 1e5 * each[0]), _UNITS[-1]))


def _total_flops(arm: Arm) -> float:
    if "total_flops" in arm.costs:
        return arm.costs["total_flops"]
    tokens = max((run.costs.get("tokens", 0.0) for run in arm.runs.values()), default=0.0)
    return arm.costs.get("flops_per_token", 0.0) * tokens


class Bands:
    """The files of one sweep's arms.

    Args:
        unit: of the FLOPs; one for a whole view.
    """

    def __init__(self, sweep: Sweep, unit: Unit) -> None:
        self._metrics = sweep.metrics
        self._unit = unit
        self._baseline = sweep.arms.get(sweep.baseline)
        self._of_baseline: Curves | None = None

    def key(self, arm: Arm) -> str:
        """What the file of an arm depends on, in sixteen digits: a file with the same key needn't be made again."""
        runs = [*counted(arm).values(), *(counted(self._baseline).values() if self._baseline else ())]
        found = [
            _FORM,
            self._metrics,
            self._unit,
            self._baseline is arm,
            [(seed, run.status) for seed, run in arm.runs.items()],
            [_state_of(run) for run in runs],
        ]
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]

    def file(self, arm: Arm, time: float) -> bytes | None:
        """The event file of an arm's mean and of its difference from the baseline; None where no
        metric has a curve of two points."""
        own = self._curves(arm)
        steps: dict[str, dict[int, dict[str, float]]] = {axis: {} for axis in self._unit.axes}
        said: dict[str, str] = {}
        for metric in self._metrics:
            for axis, name, size in (("tokens", "tokens", 1.0), ("flops", self._unit.name, self._unit.flops)):
                bands = {"mean": band(own[metric, axis], _LEVEL)}  # type: ignore[index]
                if self._baseline is not None and arm is not self._baseline:
                    bands["difference"] = difference(own[metric, axis], self._baselines()[metric, axis], _LEVEL)  # type: ignore[index]
                for kind, found in bands.items():
                    if len(found.x) < 2:  # what is measured at the end alone is a number, and no curve
                        continue
                    tags = margin(kind, name, metric)
                    said |= dict.fromkeys(tags, _said(arm, found))
                    for step, values in _points(found, size):
                        steps[name].setdefault(step, {}).update(zip(tags, values, strict=True))
        records = []
        for of_axis in steps.values():
            for step, tagged in sorted(of_axis.items()):
                records.append(Record(step, scalars(tagged, said)))
                said = {tag: text for tag, text in said.items() if tag not in tagged}  # said once, with the first
        return event_file(time, records) if records else None

    def _baselines(self) -> Curves:
        assert self._baseline is not None
        if self._of_baseline is None:
            self._of_baseline = self._curves(self._baseline)
        return self._of_baseline

    def _curves(self, arm: Arm) -> Curves:
        found: Curves = {}
        for seed, run in counted(arm).items():
            for which, curve in run_curves(run, self._metrics, ("tokens", "flops")).items():
                found.setdefault(which, {})[seed] = curve
        for metric in self._metrics:
            for axis in ("tokens", "flops"):
                found.setdefault((metric, axis), {})
        return found


def _points(found: Band, size: float) -> list[tuple[int, tuple[float, float, float]]]:
    """(step, (mean, low, high)) of at most `MOST_POINTS` points, the first and the last among them.

    One seed has no band: its ends lie on the mean, since a chart without them isn't drawn.
    """
    n = len(found.x)
    shown: Sequence[int] = range(n)
    if n > MOST_POINTS:
        shown = sorted({round(i * (n - 1) / (MOST_POINTS - 1)) for i in range(MOST_POINTS)})
    low, high = found.low or found.mean, found.high or found.mean
    shown = [i for i in shown if abs(found.x[i]) < _MOST * size]  # a cost that is NaN or infinite gives no place
    points = {round(found.x[i] / size): (found.mean[i], low[i], high[i]) for i in shown}
    return sorted(points.items())


def _said(arm: Arm, found: Band) -> str:
    """What TensorBoard says beside an arm's curve: which seeds it is of, and what became of the others."""
    others = [f"seed {seed} {run.status}" for seed, run in arm.runs.items() if not run.finished]
    return "; ".join(
        [
            f"{len(found.seeds)} of {len(arm.runs)} seeds ({', '.join(map(str, found.seeds))})",
            "95% t interval" if found.low else "one seed has no interval",
            *others,
        ]
    )


def _state_of(run: Run) -> list[object]:
    """A run's status and the state of its curves on disk."""
    if run.folder is None:
        return [run.identity, run.status]
    try:
        found = (run.folder.path / "metrics.jsonl").stat()
    except OSError:
        return [run.identity, run.status]
    return [run.identity, run.status, found.st_size, found.st_mtime_ns]


def newest(arm: Arm) -> float:
    """When a curve of the arm was last added to, in unix seconds; 0 where none has begun."""
    found = [_state_of(run) for run in counted(arm).values()]
    return max((state[3] / 1e9 for state in found if len(state) > 3), default=0.0)  # type: ignore[operator]

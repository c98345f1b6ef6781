"""Estimates of a run's time and memory, from runs that were measured on the same hardware.

The time has a part for each phase: start-up, training, validation, checkpoints and evaluations. The estimate lacks a
phase that no measured run has, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Literal

from lab.planning.forecast.history import FinishedRun, Hardware
from lab.planning.forecast.phases import MOST, OTHER_SETTING, OTHER_SHAPE, PhaseSpeeds, spread
from lab.planning.plan.model import PlannedRun
from lab.records import Workload
from lab.training.experiment import Experiment

STATE_BYTES = 16
"""Bytes for each parameter during training: the fp32 weight, its gradient and two moments."""
NEAREST = 3
"""The number of measured workloads from which an unmeasured one is scaled."""

Basis = Literal["measured", "scaled", "unknown"]


FARTHEST_TOKEN, FARTHEST_PASS = 10.0, 100.0
"""The largest ratios of the FLOPs of a token, and of a forward pass, over which one workload is scaled to another."""


@dataclass(frozen=True)
class Speed:
    """The speed and memory of a workload.

    Attributes:
        basis: `measured` from runs of this workload, `scaled` by FLOPs per token from other workloads, or `unknown`.
        runs: the number of measured runs.
        tokens_per_second: training tokens per second; None if it is unknown.
        memory_bytes: peak memory in bytes; None if it is unknown.
        note: what was different in the measured runs, such as the threads; empty if nothing was.
        factor: a new run's time is expected within the estimate divided by this and the estimate times this.
    """

    basis: Basis = "unknown"
    runs: int = 0
    tokens_per_second: float | None = None
    memory_bytes: float | None = None
    note: str = ""
    factor: float = 1.0

    def describe(self) -> str:
        """The basis in words."""
        if self.basis == "unknown":
            return f"unknown, as {self.note}" if self.note else "unknown"
        runs = f"{self.runs} run{'s' if self.runs != 1 else ''}"
        basis = f"measured in {runs}" if self.basis == "measured" else f"scaled from {runs}"
        return f"{basis} ({self.note})" if self.note else basis


@dataclass(frozen=True)
class Estimate(Speed):
    """The speed and duration of a run.

    Attributes:
        seconds: the time of the run; None if it is unknown.
        low, high: the interval in which the time of a new run is expected in nine of ten cases.
        parts: phase → seconds, `evaluations/NAME` for each evaluation.
        left_out: phases and evaluations that no measured run has, and that the time therefore lacks.
    """

    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The run's entry of `estimates` in `lab plan --json`."""
        return asdict(self)


class Speeds:
    """The speeds of workloads on one kind of hardware.

    Args:
        history: finished runs; those on other devices are ignored.
        hardware: the hardware.
    """

    def __init__(self, history: Iterable[FinishedRun], hardware: Hardware) -> None:
        self.hardware = hardware
        self._by_digest: dict[str, list[FinishedRun]] = {}
        for run in history:
            if run.workload is not None and run.tokens_per_second and self._is_comparable(run):
                self._by_digest.setdefault(run.workload.digest, []).append(run)
        self.phases = PhaseSpeeds([run for runs in self._by_digest.values() for run in runs])
        self._known: dict[str, Speed] = {}

    def of(self, workload: Workload) -> Speed:
        """The speed of a workload."""
        if workload.digest not in self._known:
            same = self._by_digest.get(workload.digest)
            self._known[workload.digest] = self._measured(same) if same else self._scaled(workload)
        return self._known[workload.digest]

    def _is_comparable(self, run: FinishedRun) -> bool:
        is_same_device = run.hardware.device == self.hardware.device
        return is_same_device and (self.hardware.device != "cpu" or run.hardware.cpu == self.hardware.cpu)

    def _measured(self, runs: Sequence[FinishedRun]) -> Speed:
        """The medians over runs of one workload, from those whose threads and torch version match best."""
        own = self.hardware
        groups = [
            ("", [run for run in runs if (run.hardware.threads, run.hardware.torch) == (own.threads, own.torch)]),
            ("with another torch", [run for run in runs if run.hardware.threads == own.threads]),
            ("with other threads", runs),
        ]
        if own.device != "cpu":
            groups = [("", [run for run in runs if run.hardware.torch == own.torch]), ("with another torch", runs)]
        note, chosen = next((note, group) for note, group in groups if group)
        if note == "with other threads":
            note = f"with {', '.join(sorted({str(run.hardware.threads) for run in chosen}))} threads each"
        memory = [run.memory_bytes for run in chosen if run.memory_bytes]
        return Speed(
            "measured",
            len(chosen),
            median((run.tokens_per_second or 0.0) * self._share(run) for run in chosen),
            median(memory) if memory else None,
            note,
            spread([run.tokens_per_second or 1.0 for run in chosen]) * (OTHER_SETTING if note else 1.0),
        )

    def _share(self, run: FinishedRun) -> float:
        """The fraction of a run's measured speed to expect with this hardware's threads.

        It is a lower bound: with fewer threads the speed falls at most in proportion, with more it doesn't fall.
        """
        own, theirs = self.hardware.threads, run.hardware.threads
        return min(1.0, own / theirs) if self.hardware.device == "cpu" and own and theirs else 1.0

    def _scaled(self, workload: Workload) -> Speed:
        """The speed at equal FLOPs per second, from workloads of equal precision with the nearest FLOPs per token."""
        groups = [(runs[0].workload, self._measured(runs)) for runs in self._by_digest.values()]
        others = [(other, speed) for other, speed in groups if other and other.precision == workload.precision]
        near = [(other, speed) for other, speed in others if _distance(other, workload) is not None]
        near.sort(key=lambda pair: _distance(pair[0], workload) or 0.0)
        nearest = near[:NEAREST]
        if not nearest:
            far = "the measured runs have another shape: they say nothing about one of this size"
            return Speed(note=far if others else "")
        speeds = [
            speed.tokens_per_second * other.flops_per_token / workload.flops_per_token
            for other, speed in nearest
            if speed.tokens_per_second
        ]
        memories = [(other, speed.memory_bytes) for other, speed in others if speed.memory_bytes]
        return Speed(
            "scaled",
            sum(speed.runs for _, speed in nearest),
            median(speeds),
            _memory(workload, memories) if memories else None,
            nearest[0][1].note,
            min(MOST, nearest[0][1].factor * OTHER_SHAPE * math.exp((_distance(nearest[-1][0], workload) or 0.0) / 2)),
        )


def estimates(runs: Iterable[PlannedRun], speeds: Speeds) -> dict[str, Estimate]:
    """Identity → estimate, for every run."""
    by_cell: dict[tuple[str, str], Estimate] = {}  # the seed doesn't change the time
    by_identity = {}
    for run in runs:
        cell = (run.arm, run.cell.name)
        if cell not in by_cell:
            by_cell[cell] = estimate(run, speeds)
        by_identity[run.identity] = by_cell[cell]
    return by_identity


def estimate(run: PlannedRun, speeds: Speeds) -> Estimate:
    """The estimate for one run."""
    speed = speeds.of(run.workload)
    train, held_out = run.experiment.train, validation_tokens(run.experiment)
    if not speed.tokens_per_second or held_out is None:
        return Estimate(**vars(speed))
    parts = {
        "training": train.steps * train.tokens_per_step / speed.tokens_per_second,
        "validation": held_out / (speed.tokens_per_second * speeds.phases.validation),
    }
    measured = {"start-up": speeds.phases.start_up, "checkpoints": speeds.phases.checkpoint(run.workload)}
    for name in run.experiment.evaluate:
        measured[f"evaluations/{name}"] = speeds.phases.evaluation(run.experiment.name, name, run.workload)
    parts |= {name: seconds for name, seconds in measured.items() if seconds is not None}
    seconds = math.fsum(parts.values())
    return Estimate(
        **vars(speed),
        seconds=seconds,
        low=seconds / speed.factor,
        high=seconds * speed.factor,
        parts=parts,
        left_out=tuple(name for name, value in measured.items() if value is None and name != "checkpoints"),
    )


def validation_tokens(experiment: Experiment) -> int | None:
    """The tokens that all validations of a run measure on, if the text has as many.

    None if validation scores the whole text, whose size isn't known before it is prepared.
    """
    train, validation = experiment.train, experiment.validation
    if validation.tokens is None:
        return None
    interval = validation.interval(train.tokens_per_step)
    times = 1 if interval is None else -(-train.steps // interval)
    return times * validation.tokens


def at_tokens(experiment: Experiment, tokens: int) -> Experiment:
    """The experiment with another number of training tokens.

    Raises:
        OptionError: the schedule doesn't fit into it.
    """
    return replace(experiment, train=replace(experiment.train, tokens=tokens))


def _memory(workload: Workload, measured: Sequence[tuple[Workload, float]]) -> float:
    """The memory of a workload in bytes: its training state, and an extrapolation of the rest from measured workloads.

    The rest is a linear fit in the FLOPs of a forward pass: a constant for libraries, a slope for activations. With one
    measured workload, it grows in proportion for a larger workload and stays the same for a smaller one, so that the
    estimate isn't too low.
    """

    def work(of: Workload) -> float:
        return of.flops_per_token * of.tokens_per_forward

    points = [(work(other), max(0.0, memory - STATE_BYTES * other.parameters)) for other, memory in measured]
    own = work(workload)
    x, y = (math.fsum(values) / len(points) for values in zip(*points, strict=True))
    spread = math.fsum((a - x) ** 2 for a, _ in points)
    if spread > 0:
        slope = max(0.0, math.fsum((a - x) * (b - y) for a, b in points) / spread)
        rest = max(y + slope * (own - x), min(b for _, b in points))
    else:
        rest = y * max(1.0, own / x)
    return STATE_BYTES * workload.parameters + rest


def _distance(one: Workload, other: Workload) -> float | None:
    """How far two workloads are apart: the logarithm of the ratio of their FLOPs per token; None if it is too far."""
    token = abs(math.log(one.flops_per_token / other.flops_per_token))
    tokens = abs(math.log(one.tokens_per_forward / other.tokens_per_forward))
    is_near = token <= math.log(FARTHEST_TOKEN) and token + tokens <= math.log(FARTHEST_PASS)
    return token if is_near else None

"""Estimates of a run's time and memory, from runs that were measured on the same hardware.

The time covers training and validation, where a forward pass takes a third of a training step's FLOPs. It leaves out
starting up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Literal

from lab.planning.forecast.history import FinishedRun, Hardware
from lab.planning.plan.model import PlannedRun
from lab.records import Workload
from lab.training.experiment import Experiment

STATE_BYTES = 16
"""Bytes for each parameter during training: the fp32 weight, its gradient and two moments."""
NEAREST = 3
"""The number of measured workloads from which an unmeasured one is scaled."""

Basis = Literal["measured", "scaled", "unknown"]


@dataclass(frozen=True)
class Speed:
    """The speed and memory of a workload.

    Attributes:
        basis: `measured` from runs of this workload, `scaled` by FLOPs per token from other workloads, or `unknown`.
        runs: the number of measured runs.
        tokens_per_second: training tokens per second; None if it is unknown.
        memory_bytes: peak memory in bytes; None if it is unknown.
        note: what was different in the measured runs, such as the threads; empty if nothing was.
    """

    basis: Basis = "unknown"
    runs: int = 0
    tokens_per_second: float | None = None
    memory_bytes: float | None = None
    note: str = ""

    def describe(self) -> str:
        """The basis in words."""
        if self.basis == "unknown":
            return "unknown"
        runs = f"{self.runs} run{'s' if self.runs != 1 else ''}"
        basis = f"measured in {runs}" if self.basis == "measured" else f"scaled from {runs}"
        return f"{basis} ({self.note})" if self.note else basis


@dataclass(frozen=True)
class Estimate(Speed):
    """The speed and duration of a run.

    Attributes:
        seconds: the time for training and validation; None if it is unknown.
    """

    seconds: float | None = None

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
        others.sort(key=lambda pair: abs(math.log(pair[0].flops_per_token / workload.flops_per_token)))
        nearest = others[:NEAREST]
        if not nearest:
            return Speed()
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
    work = passes(run.experiment)
    seconds = work / speed.tokens_per_second if speed.tokens_per_second and work is not None else None
    return Estimate(**vars(speed), seconds=seconds)


def passes(experiment: Experiment) -> float | None:
    """The work of a whole run in units of training tokens; a validation token counts as a third.

    None if validation scores the whole text, whose size isn't known before it is prepared.
    """
    train, validation = experiment.train, experiment.validation
    if validation.tokens is None:
        return None
    interval = validation.interval(train.tokens_per_step)
    times = 1 if interval is None else -(-train.steps // interval)
    return train.steps * train.tokens_per_step + times * validation.tokens / 3


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

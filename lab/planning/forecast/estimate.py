"""How long a run takes and how much memory, from runs that have been measured on the same hardware.

Time is of training and validation: a forward pass is a third of training's FLOPs. Starting up is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Literal

from lab.planning.forecast.history import Hardware, Past
from lab.planning.plan.model import PlannedRun
from lab.records import Workload
from lab.training.experiment import Experiment

STATE_BYTES = 16
"""Bytes of each parameter while it is trained: its fp32 weight, its gradient and two moments."""
NEAREST = 3
"""Workloads that an unmeasured one is scaled from."""

Basis = Literal["measured", "scaled", "unknown"]


@dataclass(frozen=True)
class Speed:
    """How fast a workload runs, and in how much memory.

    Attributes:
        basis: runs of the very workload; runs of others, scaled by FLOPs a token; or nothing.
        runs: how many were measured.
        note: what else was different there, such as the threads; empty where nothing was.
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
    """A run's speed and what it makes of the run's tokens.

    Attributes:
        seconds: of training and validation; None where it is unknown.
    """

    seconds: float | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Speeds:
    """The speeds of workloads on one hardware.

    Args:
        past: finished runs; those on other devices are passed over.
    """

    def __init__(self, past: Iterable[Past], hardware: Hardware) -> None:
        self.hardware = hardware
        here = [run for run in past if run.workload is not None and run.tokens_per_second and self._comparable(run)]
        self._by_digest: dict[str, list[Past]] = {}
        for run in here:
            assert run.workload is not None
            self._by_digest.setdefault(run.workload.digest, []).append(run)
        self._known: dict[str, Speed] = {}

    def of(self, workload: Workload) -> Speed:
        """The speed of a workload."""
        if workload.digest not in self._known:
            same = self._by_digest.get(workload.digest)
            self._known[workload.digest] = self._measured(same) if same else self._scaled(workload)
        return self._known[workload.digest]

    def _comparable(self, run: Past) -> bool:
        same = run.hardware.device == self.hardware.device
        return same and (self.hardware.device != "cpu" or run.hardware.cpu == self.hardware.cpu)

    def _measured(self, runs: Sequence[Past]) -> Speed:
        """The medians over runs of one workload, of those under the most alike circumstances."""
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

    def _share(self, run: Past) -> float:
        """Fewer threads are at worst slower in proportion, and more are at worst no faster."""
        own, theirs = self.hardware.threads, run.hardware.threads
        return min(1.0, own / theirs) if self.hardware.device == "cpu" and own and theirs else 1.0

    def _scaled(self, workload: Workload) -> Speed:
        """From the workloads of the same precision with the nearest FLOPs a token, at as many FLOPs a second."""
        groups = [(runs[0].workload, self._measured(runs)) for runs in self._by_digest.values()]
        alike = [(other, speed) for other, speed in groups if other and other.precision == workload.precision]
        alike.sort(key=lambda pair: abs(math.log(pair[0].flops_per_token / workload.flops_per_token)))
        near = alike[:NEAREST]
        if not near:
            return Speed()
        speeds = [
            speed.tokens_per_second * other.flops_per_token / workload.flops_per_token
            for other, speed in near
            if speed.tokens_per_second
        ]
        memories = [(other, speed.memory_bytes) for other, speed in alike if speed.memory_bytes]
        return Speed(
            "scaled",
            sum(speed.runs for _, speed in near),
            median(speeds),
            _memory(workload, memories) if memories else None,
            near[0][1].note,
        )


def estimates(runs: Iterable[PlannedRun], speeds: Speeds) -> dict[str, Estimate]:
    """Identity → estimate, for every run."""
    by_cell: dict[tuple[str, str], Estimate] = {}  # seeds differ in nothing that takes time
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
    seconds = passes(run.experiment) / speed.tokens_per_second if speed.tokens_per_second else None
    return Estimate(**vars(speed), seconds=seconds)


def passes(experiment: Experiment) -> float:
    """The work of a whole run in training tokens: those, and a third of each token that is validated on."""
    train, validation = experiment.train, experiment.validation
    interval = validation.interval(train.tokens_per_step)
    times = 1 if interval is None else -(-train.steps // interval)
    return train.steps * train.tokens_per_step + times * validation.tokens / 3


def at_tokens(experiment: Experiment, tokens: int) -> Experiment:
    """The experiment with another budget.

    Raises:
        OptionError: its schedule doesn't fit into it.
    """
    return replace(experiment, train=replace(experiment.train, tokens=tokens))


def _memory(workload: Workload, measured: Sequence[tuple[Workload, float]]) -> float:
    """Memory from what other workloads took beyond their training state, in proportion to a forward pass's FLOPs.

    A line through those (libraries, then activations); through one alone, its proportion for a larger workload and the
    same for a smaller: at least enough.
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

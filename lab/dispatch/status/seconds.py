"""Where the seconds of a whole sweep went, from submission to the last result: those of its runs and of all processes.

The share that isn't training is what a sweep of small runs loses. It is counted in processor seconds, because those of
the wall clock depend on what else the machine does, and several processes share them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lab.records import BrokenRecord, ProcessSeconds, RunFolder

VERSION = 1
TRAINING = "training"


@dataclass(frozen=True)
class SweepPart:
    """A part of a sweep's seconds.

    Attributes:
        name: `run training`, `submit planning`, `worker start`, …
        seconds: wall-clock seconds, summed over the processes.
        cpu_seconds: processor seconds; None if they weren't recorded.
    """

    name: str
    seconds: float
    cpu_seconds: float | None


@dataclass(frozen=True)
class SweepSeconds:
    """The seconds of a sweep.

    Attributes:
        parts: those of the runs first, then those of the processes around them.
        runs: number of runs with a record of their seconds.
        cpu_seconds: processor seconds of all parts; None if those of a run weren't recorded, as in earlier versions.
        not_training: the share of the processor seconds that are not of training steps; None if it isn't known.
    """

    parts: tuple[SweepPart, ...]
    runs: int
    cpu_seconds: float | None
    not_training: float | None

    def as_json(self) -> dict[str, object]:
        """The JSON of `lab status --seconds --json`."""
        return {
            "version": VERSION,
            "runs": self.runs,
            "parts": [vars(part) for part in self.parts],
            "cpu_seconds": self.cpu_seconds,
            "not_training": self.not_training,
        }


def sweep_seconds(runs: Iterable[RunFolder], processes: Iterable[ProcessSeconds]) -> SweepSeconds:
    """Sum up the seconds of runs, by the phases of all their attempts, and of the processes around them."""
    seconds: defaultdict[str, float] = defaultdict(float)
    cpu_seconds: defaultdict[str, float] = defaultdict(float)
    n_runs, is_known = 0, True
    for run in runs:
        wall, cpu = _of_run(run)
        n_runs += bool(wall)
        is_known = is_known and (bool(cpu) or not wall)
        for phase, value in wall.items():
            seconds[f"run {phase}"] += value
            cpu_seconds[f"run {phase}"] += cpu.get(phase, 0.0)
    in_runs, cpu_in_runs = sum(seconds.values()), sum(cpu_seconds.values())
    of_workers, cpu_of_workers = 0.0, 0.0
    for process in processes:
        for part, value in process.seconds.items():
            cpu_value = process.cpu_seconds.get(part, 0.0)
            if process.process == "worker" and part == "runs":
                of_workers, cpu_of_workers = of_workers + value, cpu_of_workers + cpu_value
            else:
                seconds[f"{process.process} {part}"] += value
                cpu_seconds[f"{process.process} {part}"] += cpu_value
    # What a worker does for a run outside of the run's own clock. A killed worker has recorded less than its runs.
    if cpu_of_workers > cpu_in_runs:
        seconds["worker around runs"] = max(0.0, of_workers - in_runs)
        cpu_seconds["worker around runs"] = cpu_of_workers - cpu_in_runs
    total = sum(cpu_seconds.values())
    training = cpu_seconds[f"run {TRAINING}"]
    return SweepSeconds(
        parts=tuple(
            SweepPart(name, value, cpu_seconds.get(name) if is_known else None) for name, value in seconds.items()
        ),
        runs=n_runs,
        cpu_seconds=total if is_known and n_runs else None,
        not_training=1 - training / total if is_known and training else None,
    )


def table(sweep: SweepSeconds) -> str:
    """The seconds as plain lines for a person."""
    width = max((len(part.name) for part in sweep.parts), default=0)
    lines = [f"{'':{width}}  {'seconds':>10}  {'processor':>10}  {'share':>6}"]
    for part in sweep.parts:
        cpu, share = "–", "–"
        if part.cpu_seconds is not None and sweep.cpu_seconds:
            cpu, share = f"{part.cpu_seconds:,.1f}", f"{part.cpu_seconds / sweep.cpu_seconds:.1%}"
        lines.append(f"{part.name:{width}}  {part.seconds:>10,.1f}  {cpu:>10}  {share:>6}")
    if sweep.not_training is None:
        lines.append("The share that is not training is unknown: not all runs recorded processor seconds.")
    else:
        assert sweep.cpu_seconds is not None
        lines.append(
            f"{sweep.runs} runs, {sweep.cpu_seconds:,.1f} processor seconds, of which {sweep.not_training:.1%} are not "
            "training."
        )
    return "\n".join(lines)


def _of_run(run: RunFolder) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Phase → seconds, and phase → processor seconds, of a run; empty if it can't be read."""
    try:
        state = run.state
    except BrokenRecord:
        return {}, {}
    return state.seconds, state.cpu_seconds

"""What a run leaves behind, and whether it is what an undisturbed one leaves: nothing lost, nothing done twice."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.dispatch.worker.claim import holder
from lab.records import RunFolder
from lab.training.checkpoints import verified

CLOCKS = ("time", "train/tokens_per_second", "train/mfu")


@dataclass(frozen=True)
class Result:
    """What must be the same however often a run was interrupted.

    Attributes:
        weights: SHA-256 of all final weights, by name and bit for bit.
        optimizer: SHA-256 of the optimizer's final state.
        points: of metrics.jsonl, without clocks. The loss of every single step is in it, and so the order of the data.
        curves: TensorBoard's, by tag: (step, value).
        metrics: of the summary.
    """

    weights: str
    optimizer: str
    points: list[dict[str, Any]]
    curves: dict[str, list[tuple[int, float]]]
    metrics: dict[str, float]

    @classmethod
    def of(cls, folder: Path) -> Result:
        newest = verified.newest(folder)
        assert newest is not None, f"{folder} has no whole checkpoint"
        content = verified.read(newest)
        return cls(
            _digest(content["state_dict"]),
            _digest(content["optimizer_states"]),
            [{key: value for key, value in point.items() if key not in CLOCKS} for point in points(folder)],
            _curves(folder),
            json.loads((folder / "summary.json").read_text())["metrics"],
        )


def points(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl; none before there is one."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def step(folder: Path) -> int:
    """The last step in metrics.jsonl; 0 before the first."""
    return max((point["step"] for point in points(folder)), default=0)


def steps_recorded(folder: Path) -> list[int]:
    """Of each training point its step, in the order of the file."""
    return [point["step"] for point in points(folder) if "train/loss" in point]


def attempts_logged(folder: Path) -> int:
    """How many attempts the run's log tells of."""
    log = folder / "log.txt"
    return len(re.findall(r"attempt \d+ on ", log.read_text())) if log.exists() else 0


def check(folder: Path, reference: Result, *, attempts: int | None = None) -> None:
    """The run is finished, every step stands once, and its result is that of the undisturbed one, bit for bit.

    Args:
        attempts: exactly so many workers have begun it.
    """
    run = RunFolder(folder)
    state = run.state
    assert state.status == "finished", state
    recorded = steps_recorded(folder)
    assert recorded == sorted(set(recorded)), f"steps that stand twice: {recorded}"
    result = Result.of(folder)
    assert result.points == reference.points
    assert result.curves == reference.curves
    assert result.weights == reference.weights
    assert result.optimizer == reference.optimizer
    assert result.metrics == reference.metrics
    assert holder(folder) is None
    claims = sorted(int(path.name) for path in (folder / ".claims").iterdir())
    assert claims == list(range(1, len(claims) + 1))
    assert attempts_logged(folder) == state.attempts
    if attempts is not None:
        assert state.attempts == attempts, (folder / "log.txt").read_text()


def _digest(content: Any) -> str:
    """Of tensors and plain values, nested as they may be."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(f"{key}:".encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            digest.update(f"[{len(value)}".encode())
            for each in value:
                add(each)
        else:
            digest.update(repr(value).encode())

    add(content)
    return digest.hexdigest()


def _curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = [tag for tag in accumulator.Tags()["scalars"] if tag not in CLOCKS]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}

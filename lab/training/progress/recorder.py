"""The curves of a run: metrics.jsonl, which is the truth, and TensorBoard events, which are for looking at.

Both are in steps of the optimizer and hold each point once however often the run was interrupted: a resumed run cuts
away what its checkpoint doesn't know. Hyperparameters are not written here, since a table of them is about a sweep.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers.logger import Logger

from lab.records import COORDINATES, PointWriter
from lab.training.progress.event_file import EventFile


class Recorder(Logger):
    """Writes a run's curves into its folder.

    Args:
        folder: the run folder.
        from_step: optimizer steps that the run has already done. Points beyond it, from an attempt that went further
            than its last checkpoint, are dropped.
    """

    def __init__(self, folder: Path, from_step: int = 0) -> None:
        super().__init__()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._points = PointWriter(folder, from_step)
        self._events = EventFile(folder, from_step)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record one point, in finite numbers: `metrics` holds `tokens`, `time` (seconds) and what was measured."""
        if step is None:
            raise ValueError("a point needs its step")
        self._points.add(step, metrics)
        scalars = {tag: value for tag, value in metrics.items() if tag not in COORDINATES}
        if "train/loss" in metrics:
            scalars["train/tokens"] = metrics["tokens"]
        self._events.add(scalars, step)

    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Nothing: the comparison of a sweep writes them."""

    def save(self) -> None:
        """Bring every point to the disk. A checkpoint must not be ahead of the curve that it continues."""
        self._points.sync()
        self._events.sync()

    def finalize(self, status: str) -> None:
        """Bring every point to the disk."""
        self.save()

    def close(self) -> None:
        self.save()
        self._points.close()
        self._events.close()

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._folder)

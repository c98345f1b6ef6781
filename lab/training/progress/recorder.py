"""The curves of a run, in metrics.jsonl and in TensorBoard events. metrics.jsonl is authoritative.

Steps are optimizer steps. Each file has every point once, even after interruptions: a resumed run drops the points
after its checkpoint. Hyperparameters aren't written here, because their table belongs to the sweep.
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
        from_step: optimizer steps before this attempt. Points after it, from an attempt that continued after its last
            checkpoint, are dropped.
    """

    def __init__(self, folder: Path, from_step: int = 0) -> None:
        super().__init__()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._points = PointWriter(folder, from_step)
        self._events = EventFile(folder, from_step)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record one point.

        Args:
            metrics: finite numbers, including `tokens` and `time` in seconds.

        Raises:
            ValueError: there is no step.
        """
        if step is None:
            raise ValueError("a point needs its step")
        self._points.add(step, metrics)
        scalars = {tag: value for tag, value in metrics.items() if tag not in COORDINATES}
        if "train/loss" in metrics:
            scalars["train/tokens"] = metrics["tokens"]
        self._events.add(scalars, step)

    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Ignored: the comparison of a sweep writes them."""

    def save(self) -> None:
        """Write all points to disk, before a checkpoint that follows them."""
        self._points.sync()
        self._events.sync()

    def finalize(self, status: str) -> None:
        """Write all points to disk."""
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

"""The Lightning plugin that reads and writes checkpoints atomically, verifies them, and keeps the last two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from lab.training.checkpoints import verified


class VerifiedCheckpointIO(CheckpointIO):
    """Stores checkpoints as `lab.training.checkpoints.verified` describes.

    Args:
        run: the run folder; its `checkpoints/` contains no other checkpoints.
        resumed_from: the checkpoint that this attempt resumes from, the newest complete one. It is kept until there are
            two newer ones.
    """

    def __init__(self, run: Path, resumed_from: Path | None = None) -> None:
        self._run = run
        self._complete = [] if resumed_from is None else [resumed_from]

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        if storage_options is not None:
            raise TypeError("checkpoints are written to a file system; there are no storage options")
        path = Path(path)
        verified.write(checkpoint, path)
        # Keep the checkpoints that this attempt knows to be complete: one with a newer name may be damaged.
        self._complete = [*(other for other in self._complete if other != path), path][-verified.MAX_CHECKPOINTS :]
        verified.keep_only(self._run, self._complete)

    def load_checkpoint(
        self, path: str | Path, map_location: str | torch.device | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain values only.

        Raises:
            DamagedCheckpoint: the file is incomplete or damaged.
        """
        if weights_only is False:
            raise ValueError("checkpoints are loaded with weights_only=True")
        content: dict[str, Any] = verified.read(Path(path), "cpu" if map_location is None else map_location)
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        verified.discard(Path(path))

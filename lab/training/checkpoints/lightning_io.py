"""How Lightning reads and writes a run's checkpoints: atomically, verified, and the last two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from lab.training.checkpoints import verified


class VerifiedCheckpointIO(CheckpointIO):
    """Stores checkpoints as `lab.training.checkpoints.verified` describes.

    Args:
        run: the run folder, whose `checkpoints/` holds no other checkpoints.
        resumed_from: the checkpoint that this attempt goes on from, and so the newest whole one; it stays until two
            newer ones stand.
    """

    def __init__(self, run: Path, resumed_from: Path | None = None) -> None:
        self._run = run
        self._whole = [] if resumed_from is None else [resumed_from]

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        if storage_options is not None:
            raise TypeError("checkpoints are written to a file system; there are no storage options")
        path = Path(path)
        verified.write(checkpoint, path)
        # What this attempt knows to be whole is kept, rather than the newest names: one of those may be damaged.
        self._whole = [*(other for other in self._whole if other != path), path][-verified.KEPT :]
        verified.discard_all_but(self._run, self._whole)

    def load_checkpoint(
        self, path: str | Path, map_location: str | torch.device | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Raises DamagedCheckpoint unless the file is whole; loads tensors and plain values only."""
        if weights_only is False:
            raise ValueError("checkpoints are loaded with weights_only=True")
        content: dict[str, Any] = verified.read(Path(path), "cpu" if map_location is None else map_location)
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        verified.discard(Path(path))

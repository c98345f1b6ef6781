"""Verified checkpoint files: the SHA-256 beside each file is checked before the file is read.

A checkpoint is `step-<n>.ckpt`, with `step-<n>.ckpt.sha256` in the format of `sha256sum`. It is written under a
temporary name and synced; then its digest is written, and the file is renamed. A checkpoint without a matching digest
is incomplete or damaged, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch

from lab.records import write_text

FOLDER = "checkpoints"
MAX_CHECKPOINTS = 2

_log = logging.getLogger(__name__)
_NAME = re.compile(r"step-(\d+)\.ckpt")


class DamagedCheckpoint(RuntimeError):
    """The content of a checkpoint is not what was written."""


def checkpoint_path(run: Path, step: int) -> Path:
    """The file of a run's checkpoint after `step` optimizer steps."""
    return run / FOLDER / f"step-{step:09d}.ckpt"


def step_of(path: Path) -> int:
    """The optimizer steps before a checkpoint, from the file's name.

    Raises:
        ValueError: it is not the name of a checkpoint.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name} is not a checkpoint's name, such as step-000000100.ckpt")
    return int(match[1])


def write(content: object, path: Path) -> None:
    """Save `content` atomically: at every moment there is a complete checkpoint of that name or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        digest = _sha256(temporary)
        write_text(_digest_path(path), f"{digest}  {path.name}\n")
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, map_location: str | torch.device = "cpu") -> Any:
    """Load a checkpoint: tensors and plain values only, no code.

    Raises:
        DamagedCheckpoint: its digest is missing or doesn't match.
    """
    fault = damage(path)
    if fault is not None:
        raise DamagedCheckpoint(f"{path}: {fault}")
    return torch.load(path, map_location=map_location, weights_only=True)


def damage(path: Path) -> str | None:
    """The fault of a checkpoint file; None if it is complete."""
    try:
        expected = _digest_path(path).read_text(encoding="ascii").split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return "its SHA-256 is missing"
    return None if _sha256(path) == expected else "its SHA-256 is not the one recorded when it was written"


def list_checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, complete or not, the newest first."""
    paths = [path for path in (run / FOLDER).glob("step-*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=step_of, reverse=True)


def newest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None. Damaged ones are skipped with a warning."""
    for path in list_checkpoints(run):
        fault = damage(path)
        if fault is None:
            return path
        _log.warning("%s is skipped: %s", path, fault)
    return None


def discard(path: Path) -> None:
    """Remove a checkpoint and its digest, the checkpoint first."""
    path.unlink(missing_ok=True)
    _digest_path(path).unlink(missing_ok=True)


def keep_only(run: Path, kept: list[Path]) -> None:
    """Remove all other checkpoints of a run, and temporary files of interrupted writes."""
    for path in list_checkpoints(run):
        if path not in kept:
            discard(path)
    for leftover in (run / FOLDER).glob(".step-*.ckpt*"):
        leftover.unlink(missing_ok=True)


def weights_at(path: Path) -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint, on the CPU, ready for its `load_state_dict`; its recipe's are left out.

    Raises:
        DamagedCheckpoint: its digest is missing or doesn't match.
    """
    prefix = "model."
    saved = read(path)["state_dict"]
    return {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

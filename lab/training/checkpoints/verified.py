"""Checkpoint files that can tell whether they are whole: a SHA-256 beside each, checked before it is read.

A checkpoint is `step-<n>.ckpt` with `step-<n>.ckpt.sha256` in the format of `sha256sum`. It is written under another
name, synced and renamed, its digest before it: a checkpoint with a name but no digest, or another one, was interrupted
or damaged, and the one before it is used.
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
KEPT = 2

_log = logging.getLogger(__name__)
_NAME = re.compile(r"step-(\d+)\.ckpt")


class DamagedCheckpoint(RuntimeError):
    """A checkpoint's contents are not those that were written."""


def checkpoint_path(run: Path, step: int) -> Path:
    """Where a run keeps its checkpoint after `step` optimizer steps."""
    return run / FOLDER / f"step-{step:09d}.ckpt"


def step_of(path: Path) -> int:
    """Optimizer steps done at a checkpoint, read off its name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name} is not a checkpoint's name, such as step-000000100.ckpt")
    return int(match[1])


def write(content: object, path: Path) -> None:
    """Save `content` so that at every moment there is either a whole checkpoint of that name or none."""
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
    """Load a checkpoint: tensors and plain values only, nothing that could run code.

    Raises:
        DamagedCheckpoint: its digest is missing or another one.
    """
    fault = damage(path)
    if fault is not None:
        raise DamagedCheckpoint(f"{path}: {fault}")
    return torch.load(path, map_location=map_location, weights_only=True)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, or None if it is whole."""
    try:
        expected = _digest_path(path).read_text(encoding="ascii").split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return "its SHA-256 is missing"
    return None if _sha256(path) == expected else "its SHA-256 is not the one recorded when it was written"


def all_of(run: Path) -> list[Path]:
    """A run's checkpoints, whole or not, the newest first."""
    found = [path for path in (run / FOLDER).glob("step-*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def newest(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None. Damaged ones are passed over with a warning."""
    for path in all_of(run):
        fault = damage(path)
        if fault is None:
            return path
        _log.warning("%s is passed over: %s", path, fault)
    return None


def discard(path: Path) -> None:
    """Remove a checkpoint and its digest, the checkpoint first."""
    path.unlink(missing_ok=True)
    _digest_path(path).unlink(missing_ok=True)


def discard_all_but(run: Path, kept: list[Path]) -> None:
    """Remove the other checkpoints of a run, and what interrupted writes left."""
    for path in all_of(run):
        if path not in kept:
            discard(path)
    for leftover in (run / FOLDER).glob(".step-*.ckpt*"):
        leftover.unlink(missing_ok=True)


def weights_at(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint, on the CPU, ready for `load_state_dict` of its model.

    Raises:
        DamagedCheckpoint: its digest is missing or another one.
    """
    prefix = "model."
    return {name.removeprefix(prefix): value for name, value in read(path)["state_dict"].items()}


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

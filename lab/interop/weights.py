"""The tensors of a checkpoint folder: safetensors or torch's own files, whole or in shards."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lab.refusals import RequestError

NAMES = ("model.safetensors", "pytorch_model.bin")
"""File names in the order in which they are searched. An index file beside them lists shards."""


_POINTER = b"version https://git-lfs.github.com/spec/"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's checkpoint by name, on the CPU and in its stored dtype.

    Raises:
        RequestError: the folder has no weights, or a file is missing or can't be read.
    """
    for name in NAMES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _read(folder / name)
        if index.is_file():
            return _read_shards(index)
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".gguf", ".pth"))
    has = f"; it has {', '.join(others[:8])}" if others else ""
    other = next((name for name in others if name.endswith(".safetensors") and "-of-" not in name), None)
    fix = f"rename {other} to {NAMES[0]}, if its tensors have the names that transformers gives them"
    raise RequestError(
        f"has no weights: neither {' nor '.join(NAMES)}, nor an index of shards{has}",
        kind="not_found",
        file=folder,
        fix=None if other is None else fix,
    )


def refuse_pointer(path: Path) -> None:
    """Refuse a file that is a pointer of Git LFS, which stands for a file that wasn't downloaded."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise RequestError(
                "is a Git LFS pointer: the file itself wasn't downloaded",
                kind="unreadable",
                file=path,
                fix="run `git lfs pull` in its folder",
            )


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        shard_of: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (json.JSONDecodeError, KeyError) as error:
        raise RequestError(f"not an index of shards: {error!r}", kind="unreadable", file=index) from None
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(shard_of.values())):
        if Path(shard).name != shard:
            raise RequestError(f"'{shard}' is not a file of this folder", file=index)
        tensors |= _read(index.parent / shard)
    missing = sorted(set(shard_of) - set(tensors))
    if missing:
        raise RequestError(f"its shards don't have {', '.join(missing[:8])}", file=index)
    return tensors


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise RequestError("is missing", kind="not_found", file=path)
    refuse_pointer(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RequestError(f"can't be read: {str(error).splitlines()[0]}", kind="unreadable", file=path) from None
    if isinstance(tensors, dict) and isinstance(nested := tensors.get("state_dict", tensors.get("model")), dict):
        raise RequestError(
            f"is a checkpoint of training: the weights are one entry of several ({', '.join(map(str, tensors))})",
            kind="unsupported",
            file=path,
            fix=f"save that entry alone, which has {len(nested)} tensors",
        )
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise RequestError("holds other values than named tensors", kind="unreadable", file=path)
    return tensors

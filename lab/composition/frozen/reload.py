"""A run's frozen configuration where the run is used again: its tokenizer's own copy, and a kernel that works here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.composition.check import check_kernel
from lab.composition.convert import ConversionError
from lab.training.experiment import Experiment


def relocated(config: Mapping[str, Any], kept: Path) -> Mapping[str, Any]:
    """The configuration with a tokenizer's file where the run keeps its own copy: the original may have gone."""
    data = config.get("data")
    tokenizer = data.get("tokenizer") if isinstance(data, Mapping) else None
    if not isinstance(tokenizer, Mapping) or tokenizer.get("name") != "file" or not (kept / "tokenizer.json").is_file():
        return config
    return {**config, "data": {**data, "tokenizer": {**tokenizer, "path": str(kept.resolve())}}}  # type: ignore[dict-item]


def kernel_here(experiment: Experiment, device: str, *, mask_documents: bool | None = None) -> str:
    """The kernel that a run was trained with, or the fastest that works, where that one doesn't on this device.

    Args:
        device: `cpu` or `cuda`.
        mask_documents: as it is to be used; None for as it was trained.
    """
    documents = experiment.train.mask_documents if mask_documents is None else mask_documents
    here: Any = device
    try:
        check_kernel(replace(experiment, train=replace(experiment.train, accelerator=here, mask_documents=documents)))
    except ConversionError:
        return "auto"
    return experiment.train.kernel

"""A run's frozen configuration where the run is used again: its tokenizer's own copy, and a kernel that works here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lab.composition.check import check_kernel
from lab.refusals import RequestError
from lab.training.experiment import Experiment
from lab.training.options import Accelerator


def relocated(config: Mapping[str, object], tokenizer_folder: Path) -> Mapping[str, object]:
    """The configuration with a tokenizer's file where the run keeps its own copy: the original may have gone."""
    data = config.get("data")
    tokenizer = data.get("tokenizer") if isinstance(data, Mapping) else None
    is_file = isinstance(tokenizer, Mapping) and tokenizer.get("name") == "file"
    if not is_file or not (tokenizer_folder / "tokenizer.json").is_file():
        return config
    assert isinstance(data, Mapping)
    assert isinstance(tokenizer, Mapping)
    return {**config, "data": {**data, "tokenizer": {**tokenizer, "path": str(tokenizer_folder.resolve())}}}


def kernel_here(experiment: Experiment, device: str, *, mask_documents: bool | None = None) -> str:
    """The kernel that a run was trained with, or the fastest that works, where that one doesn't on this device.

    Args:
        device: `cpu` or `cuda`.
        mask_documents: as it is to be used; None for as it was trained.
    """
    documents = experiment.train.mask_documents if mask_documents is None else mask_documents
    accelerator: Accelerator = "cuda" if device == "cuda" else "cpu"
    train = replace(experiment.train, accelerator=accelerator, mask_documents=documents)
    try:
        check_kernel(replace(experiment, train=train))
    except RequestError:
        return "auto"
    return experiment.train.kernel

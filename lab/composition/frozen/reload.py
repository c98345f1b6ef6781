"""Adapt a frozen configuration for using its run again: the run's tokenizer, and a kernel that works here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lab.composition.check import check_kernel
from lab.refusals import RequestError
from lab.training.experiment import Experiment
from lab.training.options import Accelerator


def relocated(config: Mapping[str, object], tokenizer_folder: Path) -> Mapping[str, object]:
    """The configuration with the tokenizer's path replaced by the run's own copy, because the original may be gone."""
    data = config.get("data")
    tokenizer = data.get("tokenizer") if isinstance(data, Mapping) else None
    is_file = isinstance(tokenizer, Mapping) and tokenizer.get("name") == "file"
    if not is_file or not (tokenizer_folder / "tokenizer.json").is_file():
        return config
    assert isinstance(data, Mapping)
    assert isinstance(tokenizer, Mapping)
    return {**config, "data": {**data, "tokenizer": {**tokenizer, "path": str(tokenizer_folder.resolve())}}}


def kernel_for_device(experiment: Experiment, device: str, *, mask_documents: bool | None = None) -> str:
    """The kernel with which a run was trained, or `auto` if that kernel doesn't work on this device.

    Args:
        device: `cpu` or `cuda`.
        mask_documents: whether documents are masked from each other; None to do as in training.
    """
    documents = experiment.train.mask_documents if mask_documents is None else mask_documents
    accelerator: Accelerator = "cuda" if device == "cuda" else "cpu"
    train = replace(experiment.train, accelerator=accelerator, mask_documents=documents)
    try:
        check_kernel(replace(experiment, train=train))
    except RequestError:
        return "auto"
    return experiment.train.kernel

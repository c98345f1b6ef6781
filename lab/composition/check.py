"""Refusals that need more than one part of an experiment, and no part of which may know the other."""

from __future__ import annotations

from dataclasses import replace

import torch

from components.architecture import ATTENTION_SLOTS
from components.attention import kernels
from lab.composition.convert import ConversionError
from lab.composition.hydra.overrides import Overrides
from lab.training.experiment import Experiment


def check_kernel(experiment: Experiment) -> None:
    """Refuse an attention kernel that cannot train some layer, before anything runs.

    Where the accelerator is left to the machine, this one's counts: a run that goes to another says which it is for.

    Raises:
        ConversionError: at train.kernel, with the kernel's own reason.
    """
    train = experiment.train
    name, device = train.kernel, train.accelerator
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    for layer in dict.fromkeys(layer for layer in experiment.model.layers if layer.attends):
        heads = layer.heads
        case = kernels.Case(
            device=device,
            dtype=torch.bfloat16 if train.precision == "bf16-mixed" else torch.float32,
            batch=train.sequences_per_forward,
            heads=heads.n_heads,
            kv_heads=heads.kv_heads,
            queries=train.context,
            keys=train.context,
            head_dim=heads.key_size,
            value_dim=heads.value_size,
            training=True,
            alibi=layer.position.alibi_slopes(heads.n_heads) is not None,
            sinks=heads.sinks,
            documents=train.mask_documents,
        )
        try:
            reason = kernels.planned_refusal(name, layer.spec, case)
            elsewhere = replace(case, device="cuda")
            moves = reason is not None and device == "cpu" and train.accelerator == "auto"
            fits_cuda = moves and kernels.planned_refusal(name, layer.spec, elsewhere) is None
        except kernels.UnknownKernel as error:
            raise ConversionError("train.kernel", str(error)) from None
        if reason is not None:
            hint = " (a run for a CUDA device says train.accelerator=cuda)" if fits_cuda else ""
            raise ConversionError("train.kernel", f"{name} refuses the {layer.kind} layers: {reason}{hint}")


def check_read(experiment: Experiment, overrides: Overrides) -> None:
    """Refuse an override of what only attention reads, for a model in which no layer attends.

    What the architecture's own file says of attention stays: it is there for the layers that may attend.

    Raises:
        ConversionError: at the slot that nothing would read.
    """
    model = experiment.model
    if any(layer.attends for layer in model.layers):
        return
    for path in [f"model.{slot}" for slot in ATTENTION_SLOTS if slot != "heads"] + ["model.softcap.attention"]:
        asked = overrides.setting(path) or overrides.chosen(path)
        position_at_embedding = path == "model.position" and model.position.embeds
        if asked is not None and not position_at_embedding:
            raise ConversionError(path, f"no layer attends (the mixer is {model.mixer.name}), so nothing would read it")

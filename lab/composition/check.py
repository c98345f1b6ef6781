"""Refusals that need more than one part of an experiment, and no part of which may know the other."""

from __future__ import annotations

from components.attention import kernels
from lab.composition.convert import ConversionError
from lab.training.experiment import Experiment


def check_kernel(experiment: Experiment) -> None:
    """Refuse an attention kernel that cannot honour what some layer computes, before anything runs.

    Raises:
        ConversionError: at train.kernel, with the kernel's own reason.
    """
    name = experiment.train.kernel
    device = "cpu" if experiment.train.accelerator == "auto" else experiment.train.accelerator
    for layer in dict.fromkeys(layer for layer in experiment.model.layers if layer.attends):
        alibi = layer.position.alibi_slopes(layer.heads.n_heads) is not None
        try:
            reason = kernels.spec_refusal(name, layer.spec, alibi=alibi, device=device)
        except kernels.UnknownKernel as error:
            raise ConversionError("train.kernel", str(error)) from None
        if reason is not None:
            raise ConversionError("train.kernel", f"{name} refuses the {layer.kind} layers: {reason}")

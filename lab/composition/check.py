"""Refusals that need more than one part of an experiment, and no part of which may know the other."""

from __future__ import annotations

from components.architecture import ATTENTION_SLOTS
from components.attention import kernels
from lab.composition.convert import ConversionError
from lab.composition.overrides import Overrides
from lab.training.experiment import Experiment


def check_kernel(experiment: Experiment) -> None:
    """Refuse an attention kernel that cannot honour what some layer computes, before anything runs.

    Raises:
        ConversionError: at train.kernel, with the kernel's own reason.
    """
    name, documents = experiment.train.kernel, experiment.train.mask_documents
    device = "cpu" if experiment.train.accelerator == "auto" else experiment.train.accelerator
    for layer in dict.fromkeys(layer for layer in experiment.model.layers if layer.attends):
        alibi = layer.position.alibi_slopes(layer.heads.n_heads) is not None
        try:
            reason = kernels.spec_refusal(
                name, layer.spec, alibi=alibi, sinks=layer.heads.sinks, documents=documents, device=device
            )
        except kernels.UnknownKernel as error:
            raise ConversionError("train.kernel", str(error)) from None
        if reason is not None:
            raise ConversionError("train.kernel", f"{name} refuses the {layer.kind} layers: {reason}")


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

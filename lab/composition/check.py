"""Refusals that need more than one part of an experiment, and no part of which may know the other."""

from __future__ import annotations

from dataclasses import replace

import torch

from components import registry
from components.attention import kernels
from components.attention.mixer import AttentionMixer
from lab.composition.hydra.overrides import Overrides
from lab.refusals import RequestError, Where
from lab.training.experiment import Experiment


def check_kernel(experiment: Experiment) -> None:
    """Refuse an attention kernel that cannot train some layer, before anything runs.

    Where the accelerator is left to the machine, this one's counts: a run that goes to another says which it is for.

    Raises:
        RequestError: at train.kernel, with the kernel's own reason.
    """
    train = experiment.train
    name, device = train.kernel, train.accelerator
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    for kind, attention in {layer.kind: layer.attention for layer in experiment.model.layers}.items():
        if attention is None:
            continue
        case = attention.case(
            device,
            torch.bfloat16 if train.precision == "bf16-mixed" else torch.float32,
            train.sequences_per_forward,
            train.context,
            training=True,
            documents=train.mask_documents,
        )
        try:
            reason = kernels.planned_refusal(name, attention.spec, case)
            on_cuda = replace(case, device="cuda")
            may_move = reason is not None and device == "cpu" and train.accelerator == "auto"
            fits_cuda = may_move and kernels.planned_refusal(name, attention.spec, on_cuda) is None
        except kernels.UnknownKernel as error:
            raise RequestError.of_name(error, Where(key="train.kernel")) from None
        if reason is not None:
            hint = " (a run for a CUDA device says train.accelerator=cuda)" if fits_cuda else ""
            problem = f"{name} refuses the {kind} layers: {reason}{hint}"
            raise RequestError(problem, kind="unsupported", key="train.kernel", given=name)


def check_read(experiment: Experiment, overrides: Overrides) -> None:
    """Refuse an override of what only attention reads, for a model in which no layer attends.

    What the architecture's own file says of attention stays: it is there for the layers that may attend.

    Raises:
        RequestError: at the slot that nothing would read.
    """
    model = experiment.model
    if any(layer.attention is not None for layer in model.layers):
        return
    mixers = ", ".join(dict.fromkeys(layer.mixer.name for layer in model.layers))
    for path in AttentionMixer().reads:
        read = [inner for inner in model.attention_paths_read if inner == path or inner.startswith(f"{path}.")]
        if not read:
            asked = overrides.setting(f"model.{path}") or overrides.choice(f"model.{path}")
            unread = f"model.{path}" if asked is not None else None
        elif path not in read:  # only some of its options
            options = [f"{path}.{option.name}" for option in registry.options(type(getattr(model, path)))]
            unread = next((f"model.{o}" for o in options if o not in read and overrides.sets(f"model.{o}")), None)
        else:
            unread = None
        if unread is not None:
            problem = f"no layer attends (the mixer is {mixers}), so nothing would read it"
            raise RequestError(problem, kind="conflict", key=unread)

"""Checks that involve several parts of an experiment which don't know each other."""

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
    """Refuse an attention kernel that can't train one of the layers, before anything runs.

    With `train.accelerator: auto`, the accelerator of this machine counts. A run for another machine has to name its
    accelerator.

    Raises:
        RequestError: at train.kernel, with the kernel's reason.
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
            hint = " (for a run on a CUDA device, set train.accelerator=cuda)" if fits_cuda else ""
            problem = f"{name} refuses the {kind} layers: {reason}{hint}"
            raise RequestError(problem, kind="unsupported", key="train.kernel", given=name)


def check_attention_overrides(experiment: Experiment, overrides: Overrides) -> None:
    """Refuse an override of an attention option in a model without attention layers.

    Attention options in the architecture's own file are allowed, because another pattern may use them.

    Raises:
        RequestError: at the option without effect.
    """
    model = experiment.model
    if any(layer.attention is not None for layer in model.layers):
        return
    mixers = ", ".join(dict.fromkeys(layer.mixer.name for layer in model.layers))
    for path in AttentionMixer().reads:
        used_paths = [used for used in model.attention_paths_read if used == path or used.startswith(f"{path}.")]
        if not used_paths:
            override = overrides.setting(f"model.{path}") or overrides.choice(f"model.{path}")
            unused = f"model.{path}" if override is not None else None
        elif path not in used_paths:  # only some of its options are used
            options = [f"{path}.{option.name}" for option in registry.options(type(getattr(model, path)))]
            unused = next((f"model.{o}" for o in options if o not in used_paths and overrides.sets(f"model.{o}")), None)
        else:
            unused = None
        if unused is not None:
            problem = f"has no effect: no layer is attention (the mixer is {mixers})"
            raise RequestError(problem, kind="conflict", key=unused)

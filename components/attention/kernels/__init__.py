"""The kernels there are, and attention by the one chosen: the fastest that honours a spec in full.

To add one, write a Kernel in a file of its own beside these and name it in `choice.KERNELS` and `choice.preference`.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from components.attention.kernels.choice import (
    AUTO,
    KERNELS,
    KernelChoice,
    UnknownKernel,
    as_called,
    choose,
    explain,
    lookup,
    names,
    planned_refusal,
)
from components.attention.kernels.kernel import Case, Kernel, KernelRefused
from components.attention.spec import AttentionInputs, AttentionSpec

__all__ = [
    "AUTO",
    "KERNELS",
    "Case",
    "Kernel",
    "KernelChoice",
    "KernelRefused",
    "UnknownKernel",
    "attend",
    "choose",
    "explain",
    "lookup",
    "names",
    "planned_refusal",
]


def attend(spec: AttentionSpec, inputs: AttentionInputs, kernel: str = AUTO, training: bool = False) -> Tensor:
    """Attention as the spec declares it: [B, H, T, Dv] in the inputs' dtype.

    Args:
        spec: what to compute.
        inputs: its tensors.
        kernel: a kernel's name, or `auto` for the fastest that honours the spec.
        training: whether dropout applies; outside of training the spec is taken without it.

    Raises:
        KernelRefused: the kernel named can't honour the spec.
        UnknownKernel: no kernel has that name.
        ValueError: the inputs don't fit together.
    """
    if spec.dropout and not training:
        spec = replace(spec, dropout=0.0)
    spec = as_called(spec, inputs)
    return choose(spec, inputs, kernel).attend(spec, inputs)

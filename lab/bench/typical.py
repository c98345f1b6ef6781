"""The attention specs of published architectures, and the kernel that `auto` chooses for each on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from components.attention import kernels
from components.attention.spec import AttentionInputs, AttentionSpec
from lab.bench.conformance import Shape, draw, trained

CAP = 5.0
"""Smaller than Gemma 2's cap of 50: random inputs don't reach 50, so a kernel without a cap would pass."""


@dataclass(frozen=True)
class TypicalSpec:
    """A spec with a name.

    Attributes:
        spec: what attention computes.
        extra_inputs: the optional inputs of the call: `alibi`, `sinks`, `documents`.
        decoding: whether the call has one token and a cache, rather than a whole sequence.
    """

    name: str
    spec: AttentionSpec
    extra_inputs: Mapping[str, bool] = field(default_factory=dict)
    decoding: bool = False

    def shape(self, whole: Shape) -> Shape:
        """The sizes of the call: a whole sequence, or its last token with a cache of the others."""
        return replace(whole, queries=1, offset=whole.queries - 1) if self.decoding else whole


def specs(context: int, head_dim: int) -> list[TypicalSpec]:
    """All typical specs, for sequences of `context` tokens. Windows are a quarter of it."""
    plain = AttentionSpec(head_dim**-0.5)
    window = max(1, context // 4)
    return [
        TypicalSpec("causal", plain),
        TypicalSpec("window", replace(plain, window=window)),
        TypicalSpec("soft-cap", replace(plain, softcap=CAP)),
        TypicalSpec("window and soft-cap", replace(plain, window=window, softcap=CAP)),
        TypicalSpec("documents", plain, {"documents": True}),
        TypicalSpec("window and documents", replace(plain, window=window), {"documents": True}),
        TypicalSpec("ALiBi", plain, {"alibi": True}),
        TypicalSpec("sinks", plain, {"sinks": True}),
        TypicalSpec("dropout", replace(plain, dropout=0.1)),
        TypicalSpec("not causal", replace(plain, causal=False)),
        TypicalSpec("decoding", plain, decoding=True),
        TypicalSpec("decoding, window and soft-cap", replace(plain, window=window, softcap=CAP), decoding=True),
    ]


@dataclass(frozen=True)
class KernelForSpec:
    """The kernel that `auto` chooses for a typical spec."""

    spec: str
    choice: kernels.KernelChoice


def answers(device: str, dtype: torch.dtype) -> list[KernelForSpec]:
    """The kernel for each typical spec on a device, `cpu` or `cuda`: with gradients, or without for decoding."""
    whole = Shape(batch=1, heads=8, kv_heads=4, queries=1024, head_dim=64)
    answers = []
    for typical in specs(whole.queries, whole.head_dim):
        inputs: AttentionInputs = draw(typical.shape(whole), dtype, device, **typical.extra_inputs)
        choice = kernels.explain(typical.spec, inputs if typical.decoding else trained(inputs))
        answers.append(KernelForSpec(typical.name, choice))
    return answers

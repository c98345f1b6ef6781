"""What the published architectures ask of attention, and which kernel computes each of it on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from components.attention import kernels
from components.attention.spec import AttentionInputs, AttentionSpec
from lab.bench.conformance import Shape, draw, trained

CAP = 5.0
"""Gemma 2 caps at 50 scores that drawn inputs don't reach: lost, it would go unnoticed."""


@dataclass(frozen=True)
class TypicalSpec:
    """A spec by name.

    Attributes:
        spec: what is computed.
        carried: which inputs come along: `alibi`, `sinks`, `documents`.
        decoding: whether it is one token after a cache, rather than a whole sequence.
    """

    name: str
    spec: AttentionSpec
    carried: Mapping[str, bool] = field(default_factory=dict)
    decoding: bool = False

    def shape(self, whole: Shape) -> Shape:
        """The sizes of a call: of a whole sequence, or of its last token after a cache of the others."""
        return replace(whole, queries=1, offset=whole.queries - 1) if self.decoding else whole


def specs(context: int, head_dim: int) -> list[TypicalSpec]:
    """Every one of them, for sequences of that many tokens; windows are a quarter of it."""
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
    """Which kernel `auto` takes for a typical spec, by its name."""

    spec: str
    choice: kernels.KernelChoice


def answers(device: str, dtype: torch.dtype) -> list[KernelForSpec]:
    """The kernel for each typical spec on a kind of device: with gradients, or without for decoding."""
    whole = Shape(batch=1, heads=8, kv_heads=4, queries=1024, head_dim=64)
    chosen = []
    for typical in specs(whole.queries, whole.head_dim):
        inputs: AttentionInputs = draw(typical.shape(whole), dtype, device, **typical.carried)
        choice = kernels.explain(typical.spec, inputs if typical.decoding else trained(inputs))
        chosen.append(KernelForSpec(typical.name, choice))
    return chosen

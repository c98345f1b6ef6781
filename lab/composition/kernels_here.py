"""Which attention kernels honour what models ask for on a device, and why the others refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.attention import kernels
from components.attention.spec import AttentionInputs, AttentionSpec

_SCALE, _TIME, _HEADS, _HEAD_DIM = 0.125, 1024, 4, 64

# What the published architectures ask for: a spec, and which inputs come along.
_TYPICAL: dict[str, tuple[AttentionSpec, dict[str, bool]]] = {
    "causal": (AttentionSpec(_SCALE), {}),
    "window": (AttentionSpec(_SCALE, window=256), {}),
    "soft-cap": (AttentionSpec(_SCALE, softcap=50.0), {}),
    "window and soft-cap": (AttentionSpec(_SCALE, window=256, softcap=50.0), {}),
    "sinks": (AttentionSpec(_SCALE), {"sinks": True}),
    "documents": (AttentionSpec(_SCALE), {"documents": True}),
    "ALiBi": (AttentionSpec(_SCALE), {"alibi": True}),
    "dropout": (AttentionSpec(_SCALE, dropout=0.1), {}),
}


@dataclass(frozen=True)
class Honoured:
    """Which kernels compute a typical spec here.

    Attributes:
        spec: its name.
        auto: the kernel that `auto` picks for 1,024 tokens.
        refusals: kernel → why it refuses, of those that do.
    """

    spec: str
    auto: str
    refusals: dict[str, str]


def typical(device: str) -> list[Honoured]:
    """Every typical spec on a kind of device, `cpu` or `cuda`."""
    found = []
    for name, (spec, extras) in _TYPICAL.items():
        refusals = {}
        for kernel in kernels.KERNELS:
            reason = kernels.spec_refusal(kernel, spec, device=device, **extras)
            if reason is not None:
                refusals[kernel] = reason
        found.append(Honoured(name, kernels.choose(spec, _inputs(device, **extras)).name, refusals))
    return found


def _inputs(device: str, *, sinks: bool = False, documents: bool = False, alibi: bool = False) -> AttentionInputs:
    import torch

    def made(*shape: int, **kind: Any) -> torch.Tensor:
        return torch.zeros(*shape, device=device, **kind)

    q, k, v = (made(1, _HEADS, _TIME, _HEAD_DIM) for _ in "qkv")
    return AttentionInputs(
        q,
        k,
        v,
        alibi_slopes=made(_HEADS) if alibi else None,
        sinks=made(_HEADS) if sinks else None,
        documents=made(1, _TIME, dtype=torch.long) if documents else None,
    )

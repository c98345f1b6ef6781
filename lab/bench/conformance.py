"""How far a kernel is from the exact result, in units of what its dtype allows.

Exact is the reference kernel on the same numbers in fp64, forward and backward. The error of a tensor is its largest
deviation over its largest exact entry. A dtype's bound on it is a number of roundings of that dtype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from components.attention.kernels import KERNELS, Kernel
from components.attention.spec import AttentionInputs, AttentionSpec

_ROUNDINGS = {"forward": 4, "backward": 8}
_ROUNDINGS_OF_SCORES = {"forward": 32, "backward": 32}

DIFFERENTIABLE = ("q", "k", "v", "sinks")


@dataclass(frozen=True)
class Shape:
    """Sizes of a call: B sequences, H query and K key-value heads, T queries after `offset` cached tokens, head_dim."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    head_dim: int
    offset: int = 0


def bound(dtype: torch.dtype, direction: str) -> float:
    """Largest relative error allowed, `direction` being forward or backward.

    Scores are held in fp32 or better. So 16-bit inputs meet a few roundings to their own dtype, of weights, outputs and
    gradients; in fp32 and fp64 the scores themselves are rounded, and one of 20 carries 20 roundings into its weight.
    """
    roundings = _ROUNDINGS if torch.finfo(dtype).bits <= 16 else _ROUNDINGS_OF_SCORES
    return roundings[direction] * torch.finfo(dtype).eps


def draw(
    shape: Shape,
    dtype: torch.dtype,
    device: str,
    *,
    alibi: bool = False,
    sinks: bool = False,
    documents: bool = False,
    seed: int = 0,
) -> AttentionInputs:
    """Inputs that bite: scores so large that caps, windows, slopes and sinks all matter. The same on every device."""
    generator = torch.Generator().manual_seed(seed)
    B, H, K, T, D = shape.batch, shape.heads, shape.kv_heads, shape.queries, shape.head_dim
    S = shape.offset + T

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    def heads(n: int, length: int) -> Tensor:
        return normal(B, length, n, D).transpose(1, 2)  # as a projection leaves its heads

    starts = torch.rand(B, S, generator=generator) < 4 / S
    return AttentionInputs(
        q=(2 * heads(H, T)).to(device, dtype),
        k=heads(K, S).to(device, dtype),
        v=heads(K, S).to(device, dtype),
        offset=shape.offset,
        alibi_slopes=(2.0 ** -torch.arange(1, H + 1)).to(device) if alibi else None,
        sinks=(2 * normal(H)).to(device, torch.promote_types(dtype, torch.float32)) if sinks else None,
        documents=starts.cumsum(1).to(device) if documents else None,
    )


def incoming(inputs: AttentionInputs) -> Tensor:
    """A gradient of the output to start a backward pass with: [B, H, T, Dv] in the inputs' dtype."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*inputs.q.shape[:3], inputs.v.shape[3], generator=generator).to(inputs.q)


def run(kernel: Kernel, spec: AttentionSpec, inputs: AttentionInputs, d_out: Tensor | None = None) -> dict[str, Tensor]:
    """What a kernel computes: `out`, or with a gradient of it to start from, that of each input by name.

    Raises:
        KernelRefused: the kernel can't.
    """
    if d_out is None:
        with torch.no_grad():
            return {"out": kernel.attend(spec, inputs)}
    inputs = trained(inputs)
    leaves = {name: tensor for name in DIFFERENTIABLE if (tensor := getattr(inputs, name)) is not None}
    out = kernel.attend(spec, inputs)
    return dict(zip(leaves, torch.autograd.grad(out, list(leaves.values()), d_out), strict=True))


def trained(inputs: AttentionInputs) -> AttentionInputs:
    """The inputs as fresh leaves that are asked for gradients."""
    leaves = {name: tensor for name in DIFFERENTIABLE if (tensor := getattr(inputs, name)) is not None}
    return replace(inputs, **{name: tensor.detach().requires_grad_() for name, tensor in leaves.items()})


def exact(spec: AttentionSpec, inputs: AttentionInputs, d_out: Tensor | None = None) -> dict[str, Tensor]:
    """The same by the reference kernel in fp64, from the very numbers that the inputs hold in their own dtype."""
    tensors = {name: getattr(inputs, name) for name in (*DIFFERENTIABLE, "alibi_slopes")}
    double = replace(inputs, **{name: x.double() for name, x in tensors.items() if x is not None})
    return run(KERNELS["reference"], spec, double, None if d_out is None else d_out.double())


def error(result: Mapping[str, Tensor], exact: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, float]:
    """Each tensor's largest deviation over the largest exact entry, in units of the dtype's bound: at most 1 is well.

    Infinite where something is not finite.
    """
    errors = {}
    for name, x in result.items():
        allowed = bound(dtype, "forward" if name == "out" else "backward") * exact[name].abs().max().item()
        worst = (x.double() - exact[name]).abs().max().item()
        errors[name] = worst / allowed if math.isfinite(worst) else math.inf
    return errors

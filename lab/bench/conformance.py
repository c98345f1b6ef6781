"""The error of a kernel, in units of the error that its dtype allows.

The exact result is that of the reference kernel on the same numbers in fp64, forward and backward. The error of a
tensor is its largest deviation divided by its largest exact entry. The bound on it is a number of rounding errors.
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
    """The sizes of a call: sequences, query heads, key-value heads, queries after `offset` cached tokens, head size."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    head_dim: int
    offset: int = 0


def bound(dtype: torch.dtype, direction: str) -> float:
    """The largest relative error allowed in a direction, "forward" or "backward".

    Kernels compute scores in fp32 or better. With 16-bit inputs, only weights, outputs and gradients are rounded to the
    inputs' dtype. In fp32 and fp64 the scores are rounded too: a score of 20 adds about 20 rounding errors to its
    weight.
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
    """Random inputs with scores so large that caps, windows, slopes and sinks all matter. Equal on all devices."""
    generator = torch.Generator().manual_seed(seed)
    B, H, K, T, D = shape.batch, shape.heads, shape.kv_heads, shape.queries, shape.head_dim
    S = shape.offset + T

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    def heads(n: int, length: int) -> Tensor:
        return normal(B, length, n, D).transpose(1, 2)  # strides as after a projection

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
    """A random gradient of the output, from which a backward pass starts: [B, H, T, Dv] in the inputs' dtype."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*inputs.q.shape[:3], inputs.v.shape[3], generator=generator).to(inputs.q)


def run(kernel: Kernel, spec: AttentionSpec, inputs: AttentionInputs, d_out: Tensor | None = None) -> dict[str, Tensor]:
    """The kernel's result: `out`, or given its gradient `d_out`, the gradients of the inputs by name.

    Raises:
        KernelRefused: the kernel can't compute this.
    """
    if d_out is None:
        with torch.no_grad():
            return {"out": kernel.attend(spec, inputs)}
    inputs = trained(inputs)
    leaves = {name: tensor for name in DIFFERENTIABLE if (tensor := getattr(inputs, name)) is not None}
    out = kernel.attend(spec, inputs)
    return dict(zip(leaves, torch.autograd.grad(out, list(leaves.values()), d_out), strict=True))


def trained(inputs: AttentionInputs) -> AttentionInputs:
    """The inputs as new leaf tensors that require gradients."""
    leaves = {name: tensor for name in DIFFERENTIABLE if (tensor := getattr(inputs, name)) is not None}
    return replace(inputs, **{name: tensor.detach().requires_grad_() for name, tensor in leaves.items()})


def exact(spec: AttentionSpec, inputs: AttentionInputs, d_out: Tensor | None = None) -> dict[str, Tensor]:
    """The result of the reference kernel in fp64, on the numbers that the inputs have in their own dtype."""
    tensors = {name: getattr(inputs, name) for name in (*DIFFERENTIABLE, "alibi_slopes")}
    double = replace(inputs, **{name: x.double() for name, x in tensors.items() if x is not None})
    return run(KERNELS["reference"], spec, double, None if d_out is None else d_out.double())


def error(result: Mapping[str, Tensor], exact: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, float]:
    """The error of each tensor in units of the dtype's bound. A result above 1 is wrong.

    The error is infinite if an entry isn't finite.
    """
    errors = {}
    for name, x in result.items():
        allowed = bound(dtype, "forward" if name == "out" else "backward") * exact[name].abs().max().item()
        worst = (x.double() - exact[name]).abs().max().item()
        errors[name] = worst / allowed if math.isfinite(worst) else math.inf
    return errors

"""RMSNorm's options, and its naive form, which serves every device, dtype and order of differentiation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RMS:
    """An RMSNorm's options.

    Attributes:
        eps: added to the mean square.
        zero_centered: whether the gain is 1 + weight instead of the weight.
        round_first: whether x / rms(x) is rounded to x's dtype before the gain multiplies it, as in Llama.
    """

    eps: float
    zero_centered: bool = False
    round_first: bool = False


def naive_rms_norm(x: Tensor, weight: Tensor, rms: RMS) -> Tensor:
    """x / rms(x) · gain, computed in fp32 at least.

    Args:
        x: [..., D]
        weight: [D]
    Returns:
        [..., D] in x's dtype.
    """
    precise = at_least_fp32(x)
    if rms.round_first and not precise.dtype == x.dtype == weight.dtype:
        return (over_rms(precise, rms.eps).to(x.dtype) * weight).to(x.dtype)
    gain = at_least_fp32(weight)
    return _over_rms_times(precise, 1.0 + gain if rms.zero_centered else gain, rms.eps).to(x.dtype)


def at_least_fp32(x: Tensor) -> Tensor:
    """x itself in fp32 or fp64; in fp32 otherwise."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def over_rms(x: Tensor, eps: float) -> Tensor:
    """x / rms(x) over the last dimension, in x's dtype."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _over_rms_times(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / rms(x) · gain, both at least fp32. Its backward pass reads memory half as often as autograd's own."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        # A compiler fuses the formula better, and transforms such as vmap don't see through a function of its own.
        return over_rms(x, eps) * gain
    if not torch.is_grad_enabled():
        return _normed(x, gain, eps)[0]
    scaled: Tensor = _OverRMSTimes.apply(x, gain, eps)  # type: ignore[no-untyped-call]
    return scaled


def _normed(x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x) · gain, and 1 / rms(x): the same numbers with gradients and without."""
    inverse = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (x * inverse).mul_(gain), inverse


class _OverRMSTimes(torch.autograd.Function):
    """y = x̂ · gain with x̂ = x / rms(x). Saves x, the gain and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        y, inverse = _normed(x, gain, eps)
        ctx.save_for_backward(x, gain, inverse)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        """d_x = (d_y · gain - x̂ · mean(d_y · gain · x̂)) / rms(x), d_gain = Σ d_y · x̂ over the rows."""
        x, gain, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: what is done in place below could not be differentiated
            gradients = torch.autograd.grad(over_rms(x, ctx.eps) * gain, (x, gain), d_y, create_graph=True)
            return *gradients, None
        normed = x * inverse
        product = d_y * normed
        d_gain = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        mean = (product @ gain).unsqueeze(-1).div_(x.shape[-1])
        d_x = torch.mul(d_y, gain, out=product).sub_(normed.mul_(mean)).mul_(inverse)
        return d_x, d_gain, None

"""Normalisation of the residual stream, over the last dimension. Every norm computes in fp32 or better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from components.initialization import Constant, Fill
from components.registry import Component, register


class Norm(Component, kind="norm"):
    """What brings activations to a common scale."""

    def build(self, dim: int) -> nn.Module:
        """A module mapping [..., dim] to [..., dim], same dtype."""
        raise NotImplementedError


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _over_rms(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _over_rms_times(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / rms(x) · gain, both at least fp32. Its backward pass reads memory half as often as autograd's own."""
    if torch.compiler.is_compiling():  # a compiler fuses the formula better
        return _over_rms(x, eps) * gain
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
            gradients = torch.autograd.grad(_over_rms(x, ctx.eps) * gain, (x, gain), d_y, create_graph=True)
            return *gradients, None
        normed = x * inverse
        product = d_y * normed
        d_gain = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        mean = (product @ gain).unsqueeze(-1).div_(x.shape[-1])
        d_x = torch.mul(d_y, gain, out=product).sub_(normed.mul_(mean)).mul_(inverse)
        return d_x, d_gain, None


@dataclass(frozen=True, kw_only=True)
class RootMeanSquare(Norm):
    """A norm that divides by the root of the mean square; `eps` is added under the root."""

    eps: float = 1e-6

    def __post_init__(self) -> None:
        self.need_positive("eps")


@register("rmsnorm")
class RMSNorm(RootMeanSquare):
    """x / rms(x) · w with w from 1, cast back before the gain as Llama does (Zhang & Sennrich 2019, 1910.07467)."""

    def build(self, dim: int) -> nn.Module:
        return RMSNormLayer(dim, self.eps)


@register("rmsnorm_zero_centered")
class ZeroCenteredRMSNorm(RootMeanSquare):
    """x / rms(x) · (1 + w) with w from 0, all of it in fp32 and cast last, as Gemma does (2408.00118)."""

    def build(self, dim: int) -> nn.Module:
        return ZeroCenteredRMSNormLayer(dim, self.eps)


@register("rmsnorm_nonparametric")
class NonparametricRMSNorm(RootMeanSquare):
    """x / rms(x), with nothing to learn (1910.07467)."""

    def build(self, dim: int) -> nn.Module:
        return Nonparametric(partial(_over_rms, eps=self.eps))


@register("layernorm")
class LayerNorm(Norm):
    """(x - mean) / sd · w + b, with or without the bias b (Ba et al. 2016, 1607.06450)."""

    eps: float = 1e-5
    bias: bool = True

    def __post_init__(self) -> None:
        self.need_positive("eps")

    def build(self, dim: int) -> nn.Module:
        return LayerNormLayer(dim, self.eps, self.bias)


@register("layernorm_nonparametric")
class NonparametricLayerNorm(Norm):
    """(x - mean) / sd, with nothing to learn, as in the first OLMo (2402.00838)."""

    eps: float = 1e-5

    def __post_init__(self) -> None:
        self.need_positive("eps")

    def build(self, dim: int) -> nn.Module:
        return Nonparametric(partial(nn.functional.layer_norm, normalized_shape=(dim,), eps=self.eps))


@register("dynamic_tanh")
class DynamicTanh(Norm):
    """tanh(a · x) · w + b in place of a norm, with one learned a from `alpha` (Zhu et al. 2025, 2503.10622)."""

    alpha: float = 0.5

    def __post_init__(self) -> None:
        self.need_positive("alpha")

    def build(self, dim: int) -> nn.Module:
        return DynamicTanhLayer(dim, self.alpha)


class RMSNormLayer(nn.Module):
    """Llama's RMSNorm: weight [dim]."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps = eps

    def fills(self) -> dict[str, Fill]:
        return {"weight": Constant(1.0)}

    def forward(self, x: Tensor) -> Tensor:
        precise = _at_least_fp32(x)
        if precise.dtype == x.dtype == self.weight.dtype:
            return _over_rms_times(x, self.weight, self.eps)
        return _over_rms(precise, self.eps).to(x.dtype) * self.weight


class ZeroCenteredRMSNormLayer(nn.Module):
    """Gemma's RMSNorm: weight [dim], the gain's distance from 1."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps = eps

    def fills(self) -> dict[str, Fill]:
        return {"weight": Constant(0.0)}

    def forward(self, x: Tensor) -> Tensor:
        return _over_rms_times(_at_least_fp32(x), 1.0 + _at_least_fp32(self.weight), self.eps).to(x.dtype)


class LayerNormLayer(nn.Module):
    """LayerNorm: weight [dim], bias [dim] or none."""

    def __init__(self, dim: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None
        self.eps = eps

    def fills(self) -> dict[str, Fill]:
        return {"weight": Constant(1.0), "bias": Constant(0.0)}

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else _at_least_fp32(self.bias)
        normed = nn.functional.layer_norm(
            _at_least_fp32(x), self.weight.shape, _at_least_fp32(self.weight), bias, self.eps
        )
        return normed.to(x.dtype)


class Nonparametric(nn.Module):
    """A norm without parameters."""

    def __init__(self, normalize: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(_at_least_fp32(x)).to(x.dtype)


class DynamicTanhLayer(nn.Module):
    """DyT: alpha [1], weight [dim], bias [dim]."""

    def __init__(self, dim: int, alpha: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1))
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.start = alpha

    def fills(self) -> dict[str, Fill]:
        return {"alpha": Constant(self.start), "weight": Constant(1.0), "bias": Constant(0.0)}

    def forward(self, x: Tensor) -> Tensor:
        alpha, weight, bias = (_at_least_fp32(parameter) for parameter in (self.alpha, self.weight, self.bias))
        return (torch.tanh(alpha * _at_least_fp32(x)) * weight + bias).to(x.dtype)

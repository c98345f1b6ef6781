"""Normalisation of the residual stream, over the last dimension. Every norm computes in fp32 or better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from components.fused.norm import PIECE, RowNorm, rms_norm, rms_norm_and_stream
from components.fused.piece import DTYPES
from components.fused.rms import RMS, at_least_fp32, naive_rms_norm, over_rms
from components.initialization import Constant, Fill
from components.registry import Component, register
from components.stepping.preparation import Preparable, Preparation


class Norm(Component, kind="norm"):
    """What brings activations to a common scale."""

    def build(self, dim: int) -> nn.Module:
        """A module mapping [..., dim] to [..., dim], same dtype."""
        raise NotImplementedError


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
        return Nonparametric(partial(over_rms, eps=self.eps))


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


class PreparedRMSNorm:
    """The form of an RMSLayer: by a call of the fused piece that is packed once, or by torch's own operation.

    The packed call is for one fp32 row a text. `module` computes inputs of other dtypes than the gain's.
    """

    def __init__(self, module: RMSLayer, weight: Tensor, preparation: Preparation) -> None:
        rms, is_fp32 = module.rms, weight.dtype == torch.float32
        self._module, self._eps, self._shape = module, rms.eps, weight.shape
        self._gain = 1.0 + at_least_fp32(weight) if rms.zero_centered else weight
        packs = is_fp32 and not preparation.traced and PIECE.takes(weight)
        self._fused = RowNorm(weight, rms, preparation.rows) if packs else None

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, 1, dim] → the same shape and dtype."""
        if x.dtype != self._gain.dtype:
            return self._module(x)  # type: ignore[no-any-return]
        if self._fused is not None and self._fused.takes(x):
            return self._fused(x)
        return torch.rms_norm(x, self._shape, self._gain, self._eps)

    def added(self, x: Tensor, stream: Tensor) -> Tensor:
        """The stream [B, 1, dim] with the norm of x on it."""
        if self._fused is not None and self._fused.takes(x) and self._fused.takes(stream):
            return self._fused(x, stream)
        return stream + self(x)


class RMSLayer(Preparable, nn.Module):
    """An RMSNorm with a gain: weight [dim]. It reads and writes the activations' dtype, fused on CPU."""

    def __init__(self, dim: int, rms: RMS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.rms = rms

    def fills(self) -> dict[str, Fill]:
        return {"weight": Constant(0.0 if self.rms.zero_centered else 1.0)}

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] → the same shape and dtype."""
        if PIECE.takes(x, self.weight):
            return rms_norm(x, self.weight, self.rms, None, x.dtype)
        return naive_rms_norm(x, self.weight, self.rms)

    def added(self, x: Tensor, stream: Tensor) -> Tensor:
        """The stream [..., dim] with the norm of x on it."""
        if PIECE.takes(x, self.weight, stream) and x.shape == stream.shape:
            dtype = torch.promote_types(x.dtype, stream.dtype)
            return rms_norm(x, self.weight, self.rms, stream, dtype)
        return stream + naive_rms_norm(x, self.weight, self.rms)

    def of_stream(self, stream: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The norm of the stream [..., dim], and the stream for what follows.

        Args:
            dtype: what the norm's readers turn it into at once; the norm is in it, or in the stream's dtype.
        """
        if PIECE.takes(stream, self.weight) and dtype in DTYPES:
            return rms_norm_and_stream(stream, self.weight, self.rms, dtype)
        return naive_rms_norm(stream, self.weight, self.rms), stream

    def prepared(self, preparation: Preparation) -> PreparedRMSNorm | None:
        is_plain = type(self).forward is RMSLayer.forward
        rounds = self.rms.round_first and self.weight.dtype not in (torch.float32, torch.float64)
        weight = None if rounds or not is_plain else preparation.watch(self, "weight")
        return None if weight is None else PreparedRMSNorm(self, weight, preparation)


def plain_rms(norm: nn.Module | None) -> RMSLayer | None:
    """A norm that is an RMSLayer whose forward pass nothing changes, neither a subclass nor a hook; else None."""
    if not isinstance(norm, RMSLayer) or type(norm).forward is not RMSLayer.forward:
        return None
    is_hooked = norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks or norm._backward_pre_hooks
    return None if is_hooked else norm


class RMSNormLayer(RMSLayer):
    """Llama's RMSNorm: weight [dim]."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(dim, RMS(eps, round_first=True))


class ZeroCenteredRMSNormLayer(RMSLayer):
    """Gemma's RMSNorm: weight [dim], the gain's distance from 1."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(dim, RMS(eps, zero_centered=True))


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
        bias = None if self.bias is None else at_least_fp32(self.bias)
        normed = nn.functional.layer_norm(
            at_least_fp32(x), self.weight.shape, at_least_fp32(self.weight), bias, self.eps
        )
        return normed.to(x.dtype)


class Nonparametric(nn.Module):
    """A norm without parameters."""

    def __init__(self, normalize: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(at_least_fp32(x)).to(x.dtype)


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
        alpha, weight, bias = (at_least_fp32(parameter) for parameter in (self.alpha, self.weight, self.bias))
        return (torch.tanh(alpha * at_least_fp32(x)) * weight + bias).to(x.dtype)

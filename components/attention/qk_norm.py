"""Normalising queries and keys before they meet, which bounds the attention scores (Henry et al. 2020, 2010.04245).

A norm acts either on each head by itself, with a gain that the heads share, or on the whole projection at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.initialization import Constant, Fill
from components.norm import LayerNormLayer, RMSNormLayer, ZeroCenteredRMSNormLayer
from components.registry import Component, OptionError, register


class QKNorm(Component, kind="qk_norm"):
    """What is done to queries and keys between their projection and their rotation."""

    def build(self, n_heads: int, head_dim: int) -> nn.Module | None:
        """A module mapping [B, n_heads, T, head_dim] to the same, or None."""
        raise NotImplementedError


@register("none")
class NoQKNorm(QKNorm):
    """Queries and keys as projected."""

    def build(self, n_heads: int, head_dim: int) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class QKNormWithEps(QKNorm):
    """A norm of queries and keys that keeps off zero by `eps`."""

    eps: float = 1e-6

    def __post_init__(self) -> None:
        self.need_positive("eps")


@register("rmsnorm")
class QKRMSNorm(QKNormWithEps):
    """RMSNorm over each head, its gain shared by the heads: as Qwen3, or with (1 + w) as Gemma 3 (`zero_centered`)."""

    zero_centered: bool = False

    def build(self, n_heads: int, head_dim: int) -> nn.Module:
        layer = ZeroCenteredRMSNormLayer if self.zero_centered else RMSNormLayer
        return layer(head_dim, self.eps)


@register("rmsnorm_full")
class QKFullRMSNorm(QKNormWithEps):
    """RMSNorm over all heads together, the whole width of the projection, as in OLMo 2 (2501.00656)."""

    def build(self, n_heads: int, head_dim: int) -> nn.Module:
        return FullWidthRMSNorm(n_heads * head_dim, self.eps)


@register("l2")
class QKL2Norm(QKNormWithEps):
    """x / max(‖x‖, eps) · s over each head, with one learned s a head (Henry et al. 2020, 2010.04245).

    The scores are s_query · s_key · cos(query, key) times the heads' own scale. s starts at `scale`, which is
    sqrt(head_dim) where it isn't given: the length of a vector whose values have unit size.
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None and self.scale <= 0:
            raise OptionError("scale", f"must be positive, or null for sqrt(head_dim), got {self.scale}")

    def build(self, n_heads: int, head_dim: int) -> nn.Module:
        return L2NormLayer(n_heads, self.eps, math.sqrt(head_dim) if self.scale is None else self.scale)


@register("layernorm")
class QKLayerNorm(QKNormWithEps):
    """LayerNorm over each head, its gain and bias shared by the heads, as in ViT-22B (2302.05442)."""

    eps: float = 1e-5
    bias: bool = True

    def build(self, n_heads: int, head_dim: int) -> nn.Module:
        return LayerNormLayer(head_dim, self.eps, self.bias)


class FullWidthRMSNorm(RMSNormLayer):
    """RMSNorm over heads and their values jointly: weight [n_heads · head_dim], in the order of the projection."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_heads, T, head_dim] → the same."""
        B, n_heads, T, head_dim = x.shape
        normed = super().forward(x.transpose(1, 2).reshape(B, T, n_heads * head_dim))
        return normed.view(B, T, n_heads, head_dim).transpose(1, 2)


class L2NormLayer(nn.Module):
    """weight [n_heads], the length that each head's vectors are given."""

    def __init__(self, n_heads: int, eps: float, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_heads))
        self.eps, self.start = eps, start

    def fills(self) -> dict[str, Fill]:
        return {"weight": Constant(self.start)}

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_heads, T, head_dim] → the same, in fp32 at least until the end."""
        precise = torch.promote_types(x.dtype, torch.float32)
        unit = F.normalize(x.to(precise), dim=-1, eps=self.eps)
        return (unit * self.weight.to(precise)[:, None, None]).to(x.dtype)

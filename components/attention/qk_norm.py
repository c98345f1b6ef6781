"""Normalising queries and keys before they meet, which bounds the attention scores (Henry et al. 2020, 2010.04245)."""

from __future__ import annotations

from torch import nn

from components.norm import RMSNormLayer, ZeroCenteredRMSNormLayer
from components.registry import Component, OptionError, register


class QKNorm(Component, kind="qk_norm"):
    """What is done to queries and keys between their projection and their rotation."""

    def build(self, head_dim: int) -> nn.Module | None:
        """A module mapping [..., head_dim] to the same, or None."""
        raise NotImplementedError


@register("none")
class NoQKNorm(QKNorm):
    """Queries and keys as projected."""

    def build(self, head_dim: int) -> None:
        return None


@register("rmsnorm")
class QKRMSNorm(QKNorm):
    """RMSNorm over each head, its gain shared by the heads: as Qwen3, or with (1 + w) as Gemma 3 (`zero_centered`)."""

    eps: float = 1e-6
    zero_centered: bool = False

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise OptionError("eps", f"must be positive, got {self.eps}")

    def build(self, head_dim: int) -> nn.Module:
        layer = ZeroCenteredRMSNormLayer if self.zero_centered else RMSNormLayer
        return layer(head_dim, self.eps)

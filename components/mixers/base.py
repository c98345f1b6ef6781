"""What mixes information across positions in a layer: attention, or something that does not attend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from components.attention.mixer import Attention
from components.registry import Component, register

if TYPE_CHECKING:
    from components.architecture import Layer


class Mixer(Component, kind="mixer"):
    """What mixes information across positions in a layer."""

    def build(self, d_model: int, layer: Layer) -> nn.Module:
        """A module: forward(x [B, T, d_model], frame) → [B, T, d_model], causal."""
        raise NotImplementedError


@register("attention")
class AttentionMixer(Mixer):
    """Attention as the slots heads, qk_norm, span, position and softcap say."""

    def build(self, d_model: int, layer: Layer) -> nn.Module:
        return Attention(d_model, layer.heads, layer.qk_norm, layer.position, layer.spec, layer.values)

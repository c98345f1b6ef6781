"""Positions that are added to the token embedding: learned vectors, or sines and cosines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.initialization import Fill, Normal
from components.position.positions import Position
from components.registry import register


@register("learned")
class LearnedPosition(Position):
    """A learned vector a position, added to the token embedding, as in GPT-2. No context beyond `context`."""

    embeds = True
    context: int

    def __post_init__(self) -> None:
        self.need_at_least(1, "context")

    @property
    def max_context(self) -> int:
        return self.context

    def build_embedding(self, d_model: int) -> nn.Module:
        return LearnedEmbedding(self.context, d_model)


@register("sinusoidal")
class SinusoidalPosition(Position):
    """Sines and cosines added to the token embedding, at any length (Vaswani et al. 2017, 1706.03762, section 3.5).

    Value 2i is sin(position / 10000^(2i / d_model)), value 2i + 1 the cosine of the same angle.
    """

    embeds = True

    def build_embedding(self, d_model: int) -> nn.Module:
        return SinusoidalEmbedding(d_model)


class LearnedEmbedding(nn.Module):
    """weight [context, d_model], looked up by position."""

    def __init__(self, context: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(context, d_model))

    def fills(self) -> dict[str, Fill]:
        return {"weight": Normal("embedding", self.weight.shape[1])}

    def flops_per_token(self, context: int) -> float:
        return 0.0  # a look-up multiplies nothing

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """positions [..., T] integer → [..., T, d_model]."""
        return self.weight[positions].to(dtype)


class SinusoidalEmbedding(nn.Module):
    """Computed where it is needed: it has no table and no limit."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """positions [..., T] integer → [..., T, d_model], computed in fp32 at least."""
        exact = torch.promote_types(dtype, torch.float32)
        exponents = torch.arange(0, self.d_model, 2, dtype=exact, device=positions.device) / self.d_model
        angles = positions.to(exact)[..., None] / 10_000.0**exponents
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., : self.d_model].to(dtype)

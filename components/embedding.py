"""Tokens in, logits out: the embedding table and the output head, tied or apart."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.initialization import Fill, Normal, Projection
from components.registry import Component, register


class Embedding(Component, kind="embedding"):
    """How tokens become vectors, and vectors logits."""

    tied: ClassVar[bool]
    scaled: bool


@register("tied")
class TiedEmbedding(Embedding):
    """One table for both ends; `scaled` multiplies the input end by sqrt(d_model), as Gemma does."""

    tied: ClassVar[bool] = True
    scaled: bool = False


@register("untied")
class UntiedEmbedding(Embedding):
    """A table for the input and a matrix for the output; `scaled` multiplies the input end by sqrt(d_model)."""

    tied: ClassVar[bool] = False
    scaled: bool = False


class TokenEmbedding(nn.Module):
    """weight [vocab_size, d_model]; the sqrt(d_model) factor is rounded to the weight's dtype, as in Gemma's code."""

    def __init__(self, vocab_size: int, d_model: int, scaled: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        self.factor = math.sqrt(d_model) if scaled else None

    def fills(self) -> dict[str, Fill]:
        return {"weight": Normal("embedding", self.weight.shape[1])}

    def flops_per_token(self, context: int) -> float:
        return 0.0  # a look-up multiplies nothing

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] integer → [B, T, d_model]."""
        x = F.embedding(tokens, self.weight)
        return x if self.factor is None else x * torch.tensor(self.factor, dtype=x.dtype, device=x.device)


class TiedHead(nn.Module):
    """Logits by the embedding table itself, which the decoder passes in; it has no parameter of its own."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.shape = (vocab_size, d_model)

    def flops_per_token(self, context: int) -> float:
        return 2.0 * self.shape[0] * self.shape[1]

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """x [B, T, d_model], table [vocab_size, d_model] → [B, T, vocab_size]."""
        return F.linear(x, table)


class UntiedHead(nn.Module):
    """Logits by a matrix of its own."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.projection = Projection(d_model, vocab_size)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """x [B, T, d_model] → [B, T, vocab_size]; the table is not used."""
        return self.projection(x)  # type: ignore[no-any-return]

"""Tokens in, logits out: the embedding table and the output head, tied or apart.

in:  table[token] · sqrt(d_model) if `scaled` · `multiplier`
out: (weight · x + bias) · `logit_scale`, where weight is the table itself if they are tied
A cap on the logits (`components.softcap`) comes last.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.initialization import Constant, Fill, Normal, Projection
from components.registry import Component, register
from components.stepping.joined import Product
from components.stepping.preparation import Preparation, is_observed


@dataclass(frozen=True, kw_only=True)
class Embedding(Component, kind="embedding"):
    """How tokens become vectors, and vectors logits.

    Attributes:
        tied: whether the output head reads the embedding table.
        scaled: multiply a token's vector by sqrt(d_model), as Gemma does.
        multiplier: a further factor on it (Granite's embedding_multiplier).
        logit_scale: a factor on the logits (Cohere's logit_scale; Granite's is 1 / logits_scaling).
        head_bias: whether the output head has a bias [vocab_size], its own even where the matrix is shared.
        z_loss: weight of the training loss that holds the logits' normaliser near 1 (`logit_z_loss`).
    """

    tied: ClassVar[bool]
    scaled: bool = False
    multiplier: float = 1.0
    logit_scale: float = 1.0
    head_bias: bool = False
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        self.need_positive("multiplier", "logit_scale")
        self.need_at_least(0, "z_loss")

    def build_table(self, vocab_size: int, d_model: int) -> TokenEmbedding:
        """A module: forward(tokens [B, T]) → [B, T, d_model]."""
        return TokenEmbedding(vocab_size, d_model, self)

    def build_head(self, vocab_size: int, d_model: int) -> OutputHead:
        """The output head."""
        raise NotImplementedError


@register("tied")
class TiedEmbedding(Embedding):
    """One table for both ends (Press & Wolf 2016, 1608.05859)."""

    tied = True

    def build_head(self, vocab_size: int, d_model: int) -> TiedHead:
        return TiedHead(vocab_size, d_model, self)


@register("untied")
class UntiedEmbedding(Embedding):
    """A table for the input and a matrix for the output."""

    tied = False

    def build_head(self, vocab_size: int, d_model: int) -> UntiedHead:
        return UntiedHead(vocab_size, d_model, self)


class TokenEmbedding(nn.Module):
    """weight [vocab_size, d_model]; the sqrt(d_model) factor is rounded to the weight's dtype, as in Gemma's code."""

    def __init__(self, vocab_size: int, d_model: int, embedding: Embedding) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        self.root = math.sqrt(d_model) if embedding.scaled else None
        self.multiplier = embedding.multiplier

    def fills(self) -> dict[str, Fill]:
        return {"weight": Normal("embedding", self.weight.shape[1])}

    def flops_per_token(self, context: int) -> float:
        return 0.0  # a look-up multiplies nothing

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] integer → [B, T, d_model]."""
        x = F.embedding(tokens, self.weight)
        if self.root is not None:
            x = x * torch.tensor(self.root, dtype=x.dtype, device=x.device)
        return x if self.multiplier == 1 else x * self.multiplier


class OutputHead(nn.Module, ABC):
    """Makes logits of hidden states."""

    @abstractmethod
    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """x [B, T, d_model], the embedding table [vocab_size, d_model] → logits [B, T, vocab_size]."""

    def linear_map(self, table: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """weight [vocab_size, d_model] and bias [vocab_size] or None, where logits are (weight · x + bias) ·
        logit_scale, so that the loss can be computed without all logits at once. None for other heads."""
        return None

    def prepared(self, preparation: Preparation, embedding: nn.Module) -> PreparedHead | None:
        """Its form for few rows (see `components.stepping.preparation`); `embedding` has the table as `weight`."""
        return None


class PreparedHead:
    """The form of an output head: the table that it is called with is in its product."""

    def __init__(self, product: Product, logit_scale: float) -> None:
        self._product, self._logit_scale = product, logit_scale

    def __call__(self, x: Tensor, table: Tensor) -> Tensor:
        return _scaled(self._product(x), self._logit_scale)


class TiedHead(OutputHead):
    """Logits by the embedding table itself, which the decoder passes in. Its only own parameter is an optional bias."""

    def __init__(self, vocab_size: int, d_model: int, embedding: Embedding) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(vocab_size)) if embedding.head_bias else None
        self.shape = (vocab_size, d_model)
        self.logit_scale = embedding.logit_scale

    def fills(self) -> dict[str, Fill]:
        return {} if self.bias is None else {"bias": Constant(0.0)}

    def flops_per_token(self, context: int) -> float:
        return 2.0 * self.shape[0] * self.shape[1]

    def linear_map(self, table: Tensor) -> tuple[Tensor, Tensor | None]:
        return table, self.bias

    def prepared(self, preparation: Preparation, embedding: nn.Module) -> PreparedHead | None:
        if type(self) is not TiedHead or is_observed(self):
            return None
        product = preparation.product_of([(embedding, "weight")], [None if self.bias is None else (self, "bias")])
        return None if product is None else PreparedHead(product, self.logit_scale)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return _scaled(F.linear(x, table, self.bias), self.logit_scale)


class UntiedHead(OutputHead):
    """Logits by a matrix of its own."""

    def __init__(self, vocab_size: int, d_model: int, embedding: Embedding) -> None:
        super().__init__()
        self.projection = Projection(d_model, vocab_size, bias=embedding.head_bias)
        self.logit_scale = embedding.logit_scale

    def linear_map(self, table: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.projection.weight, self.projection.bias

    def prepared(self, preparation: Preparation, embedding: nn.Module) -> PreparedHead | None:
        product = preparation.product(self.projection)
        if type(self) is not UntiedHead or is_observed(self) or product is None:
            return None
        return PreparedHead(product, self.logit_scale)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return _scaled(self.projection(x), self.logit_scale)


def _scaled(logits: Tensor, scale: float) -> Tensor:
    return logits if scale == 1 else logits * scale


def logit_z_loss(logits: Tensor) -> Tensor:
    """Mean over tokens of log(Z)², Z the sum of exp(logits), in fp32 at least (PaLM, 2204.02311, section 5).

    logits: [B, T, vocab_size], as the cross-entropy sees them → a scalar.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return precise.logsumexp(-1).square().mean()

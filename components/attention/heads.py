"""The heads of attention: how many queries, how many keys and values, and their projections.

Query head h reads key-value head h // (n_heads / n_kv_heads). The query projection goes from d_model to
n_heads · head_dim, whatever d_model is. Heads whose keys and values come out of a small latent are in `mla`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from components.attention.prepared import PreparedHeads, PreparedPlainHeads
from components.attention.qk_norm import QKNorm
from components.initialization import Projection
from components.position.positions import Rotate
from components.products import in_product_dtype
from components.registry import Component, OptionError, register
from components.stepping.preparation import Preparation


@dataclass(frozen=True)
class CachedSizes:
    """What a cache keeps of a token: `kv_heads` keys and values; `shared` values are the first part of their keys."""

    kv_heads: int
    key_size: int
    value_size: int
    shared: bool


class Projections(nn.Module, ABC):
    """The linear maps around an attention kernel.

    Over a cache keys and values may have a smaller form than a kernel gets elsewhere: `cached_qkv` and `cached_output`
    are `qkv` and `output` in that form.

    Attributes:
        reads_by_products: whether x is read by matrix products alone, so that autocast may round it before.
    """

    reads_by_products: ClassVar[bool] = False

    @abstractmethod
    def qkv(self, x: Tensor, rotate: Rotate | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, d_model] → q [B, H, T, key_size], k [B, K, T, key_size], v [B, K, T, value_size].

        rotate: rotates vectors [B, heads, T, rotary_size]; None where positions don't rotate.
        """

    @abstractmethod
    def output(self, attended: Tensor) -> Tensor:
        """attended [B, H, T, value_size] → [B, T, d_model]."""

    def cached_qkv(self, x: Tensor, rotate: Rotate | None) -> tuple[Tensor, Tensor, Tensor]:
        """As `qkv`, with keys [B, K', T, D'] and values [B, K', T, E'] as a cache keeps them, and queries to match.

        D', E' and K' are the heads' `cached_sizes`.
        """
        return self.qkv(x, rotate)

    def cached_output(self, attended: Tensor) -> Tensor:
        """What attention over those gave, [B, H, T, E'] → [B, T, d_model]."""
        return self.output(attended)

    def prepared(self, preparation: Preparation) -> PreparedHeads | None:
        """A form of `cached_qkv` and `cached_output` for one new token (see `components.stepping.preparation`)."""
        return None


class Heads(Component, kind="heads"):
    """How many query, key and value heads attention has, and how they are projected."""

    n_heads: int
    head_dim: int
    query_pre_attn_scalar: float | None
    sinks: bool = False
    value_residual: bool = False

    @property
    def kv_heads(self) -> int:
        """Key-value heads that a kernel gets."""
        raise NotImplementedError

    @property
    def key_size(self) -> int:
        """Values of one head's query or key."""
        return self.head_dim

    @property
    def value_size(self) -> int:
        """Values of one head's value."""
        return self.head_dim

    @property
    def rotary_size(self) -> int:
        """How many values of a query or key a position may rotate."""
        return self.head_dim

    @property
    def cached_sizes(self) -> CachedSizes:
        """The shape of what a cache keeps of one token."""
        return CachedSizes(self.kv_heads, self.key_size, self.value_size, shared=False)

    @property
    def scale(self) -> float:
        """Factor on q·k."""
        return 1.0 / math.sqrt(self.query_pre_attn_scalar or self.key_size)

    def qk_norm_refusal(self, qk_norm: QKNorm) -> str | None:
        """Why these heads have no place for that norm; None if they have one."""
        return None

    def build(self, d_model: int, qk_norm: QKNorm) -> Projections:
        """The linear maps around an attention kernel."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PlainHeads(Heads):
    """Heads whose queries, keys and values are each one projection.

    Attributes:
        bias: biases of the query, key and value projections.
        output_bias: a bias of the output projection.
        query_pre_attn_scalar: scores are scaled by its -1/2 power; None for head_dim.
        sinks: a learned logit a head that takes part in the softmax and carries no value, as in gpt-oss (2508.10925),
            so that a head can look at nothing.
        value_residual: layers after the first mix the first one's values into their own: λ · v + (1 - λ) · v_first,
            with one learned λ a layer, from 0.5 (Zhou et al. 2024, 2410.17897).
    """

    n_heads: int
    head_dim: int
    bias: bool = False
    output_bias: bool = False
    query_pre_attn_scalar: float | None = None
    sinks: bool = False
    value_residual: bool = False

    def __post_init__(self) -> None:
        self.need_at_least(1, "n_heads", "head_dim")
        self.need_positive("query_pre_attn_scalar")

    def build(self, d_model: int, qk_norm: QKNorm) -> Projections:
        return PlainProjections(d_model, self, qk_norm)


@register("mha")
class MHA(PlainHeads):
    """Multi-head attention: a key-value head for every query head (Vaswani et al. 2017, 1706.03762)."""

    @property
    def kv_heads(self) -> int:
        return self.n_heads


@register("gqa")
class GQA(PlainHeads):
    """Grouped-query attention: n_heads / n_kv_heads query heads share a key-value head (2305.13245)."""

    n_kv_heads: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_at_least(1, "n_kv_heads")
        if self.n_heads % self.n_kv_heads:
            divisors = [n for n in range(1, self.n_heads + 1) if self.n_heads % n == 0]
            raise OptionError(
                "n_kv_heads", f"must divide n_heads = {self.n_heads} (one of {divisors}), got {self.n_kv_heads}"
            )

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads


@register("mqa")
class MQA(PlainHeads):
    """Multi-query attention: all query heads share one key-value head (Shazeer 2019, 1911.02150)."""

    @property
    def kv_heads(self) -> int:
        return 1


class PlainProjections(Projections):
    """q, k, v and output matrices of H query heads and K key-value heads of size D.

    q [H·D, d_model], k and v [K·D, d_model], o [d_model, H·D].
    """

    reads_by_products = True

    def __init__(self, d_model: int, heads: PlainHeads, qk_norm: QKNorm) -> None:
        super().__init__()
        H, K, D = heads.n_heads, heads.kv_heads, heads.head_dim
        self.head_dim = D
        self.q = Projection(d_model, H * D, bias=heads.bias)
        self.k = Projection(d_model, K * D, bias=heads.bias)
        self.v = Projection(d_model, K * D, bias=heads.bias)
        self.o = Projection(H * D, d_model, bias=heads.output_bias, role="residual_output")
        self.q_norm = qk_norm.build(H, D)
        self.k_norm = qk_norm.build(K, D)

    def qkv(self, x: Tensor, rotate: Rotate | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, d_model] → q [B, H, T, D], k and v [B, K, T, D]: projected, normed, then rotated."""
        x = in_product_dtype(x)
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        return q, k, v

    def output(self, attended: Tensor) -> Tensor:
        """attended [B, H, T, D] → [B, T, d_model]."""
        return self.o(merge_heads(attended))  # type: ignore[no-any-return]

    def prepared(self, preparation: Preparation) -> PreparedHeads | None:
        qkv, output = preparation.product(self.q, self.k, self.v), preparation.product(self.o)
        if type(self) is not PlainProjections or qkv is None or output is None:
            return None
        sizes = self.q.out_features // self.head_dim, self.k.out_features // self.head_dim, self.head_dim
        norms = None
        if self.q_norm is not None and self.k_norm is not None:
            norms = preparation.form(self.q_norm), preparation.form(self.k_norm)
        return PreparedPlainHeads(qkv, output, sizes, norms)


def split_heads(x: Tensor, size: int) -> Tensor:
    """[B, T, heads · size] → [B, heads, T, size]."""
    B, T, _ = x.shape
    return x.view(B, T, -1, size).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, T, size] → [B, T, heads · size]."""
    return x.transpose(1, 2).flatten(2)

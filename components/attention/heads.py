"""The heads of attention: how many queries, how many keys and values, and their projections.

Query head h reads key-value head h // (n_heads / n_kv_heads). The query projection goes from d_model to
n_heads · head_dim, whatever d_model is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from components.attention.qk_norm import QKNorm
from components.initialization import Projection
from components.registry import Component, OptionError, register

Rotate = Callable[[Tensor], Tensor]


class Heads(Component, kind="heads"):
    """How many query, key and value heads attention has, and how they are projected."""

    n_heads: int
    head_dim: int
    query_pre_attn_scalar: float | None

    @property
    def kv_heads(self) -> int:
        """Key-value heads, each of which a cache stores."""
        raise NotImplementedError

    @property
    def scale(self) -> float:
        """Factor on q·k."""
        return 1.0 / math.sqrt(self.query_pre_attn_scalar or self.head_dim)

    def build(self, d_model: int, qk_norm: QKNorm) -> Projections:
        """The projections around an attention kernel."""
        raise NotImplementedError


def _check(heads: Heads, n_kv_heads: int) -> None:
    for option in ("n_heads", "head_dim"):
        if getattr(heads, option) < 1:
            raise OptionError(option, f"must be at least 1, got {getattr(heads, option)}")
    if n_kv_heads < 1:
        raise OptionError("n_kv_heads", f"must be at least 1, got {n_kv_heads}")
    if heads.n_heads % n_kv_heads:
        divisors = [n for n in range(1, heads.n_heads + 1) if heads.n_heads % n == 0]
        raise OptionError("n_kv_heads", f"must divide n_heads = {heads.n_heads} (one of {divisors}), got {n_kv_heads}")
    if heads.query_pre_attn_scalar is not None and heads.query_pre_attn_scalar <= 0:
        raise OptionError("query_pre_attn_scalar", f"must be positive, got {heads.query_pre_attn_scalar}")


@register("mha")
class MHA(Heads):
    """Multi-head attention: a key-value head for every query head (Vaswani et al. 2017, 1706.03762)."""

    n_heads: int
    head_dim: int
    bias: bool = False
    query_pre_attn_scalar: float | None = None

    def __post_init__(self) -> None:
        _check(self, self.n_heads)

    @property
    def kv_heads(self) -> int:
        return self.n_heads

    def build(self, d_model: int, qk_norm: QKNorm) -> Projections:
        return Projections(d_model, self.n_heads, self.n_heads, self.head_dim, self.bias, qk_norm)


@register("gqa")
class GQA(Heads):
    """Grouped-query attention: n_heads / n_kv_heads query heads share a key-value head (2305.13245).

    Scores are scaled by query_pre_attn_scalar^-1/2, by head_dim^-1/2 where it isn't given.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    bias: bool = False
    query_pre_attn_scalar: float | None = None

    def __post_init__(self) -> None:
        _check(self, self.n_kv_heads)

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads

    def build(self, d_model: int, qk_norm: QKNorm) -> Projections:
        return Projections(d_model, self.n_heads, self.n_kv_heads, self.head_dim, self.bias, qk_norm)


@register("mqa")
class MQA(Heads):
    """Multi-query attention: all query heads share one key-value head (Shazeer 2019, 1911.02150)."""

    n_heads: int
    head_dim: int
    bias: bool = False
    query_pre_attn_scalar: float | None = None

    def __post_init__(self) -> None:
        _check(self, 1)

    @property
    def kv_heads(self) -> int:
        return 1

    def build(self, d_model: int, qk_norm: QKNorm) -> Projections:
        return Projections(d_model, self.n_heads, 1, self.head_dim, self.bias, qk_norm)


class Projections(nn.Module):
    """q, k, v and output matrices of H query heads and K key-value heads of size D.

    q [H·D, d_model], k and v [K·D, d_model], o [d_model, H·D].
    """

    def __init__(self, d_model: int, n_heads: int, n_kv_heads: int, head_dim: int, bias: bool, qk_norm: QKNorm) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q = Projection(d_model, n_heads * head_dim, bias=bias)
        self.k = Projection(d_model, n_kv_heads * head_dim, bias=bias)
        self.v = Projection(d_model, n_kv_heads * head_dim, bias=bias)
        self.o = Projection(n_heads * head_dim, d_model, bias=bias, role="residual_output")
        self.q_norm = qk_norm.build(head_dim)
        self.k_norm = qk_norm.build(head_dim)

    def qkv(self, x: Tensor, rotate: Rotate | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, d_model] → q [B, H, T, D], k and v [B, K, T, D]: projected, normed, then rotated."""
        q, k, v = self._heads(self.q(x)), self._heads(self.k(x)), self._heads(self.v(x))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        return q, k, v

    def output(self, attended: Tensor) -> Tensor:
        """attended [B, H, T, D] → [B, T, d_model]."""
        return self.o(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        return x.view(B, T, -1, self.head_dim).transpose(1, 2)

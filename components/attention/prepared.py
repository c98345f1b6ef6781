"""Attention over one new token as generation prepares it: q, k and v by one product, slots and rotations by number."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from components.attention.decoding import Visible, attend_one
from components.attention.spec import AttentionSpec
from components.forward_context import ForwardContext
from components.position.positions import Rotate
from components.stepping.joined import Product
from components.stepping.preparation import Form


class PreparedHeads(Protocol):
    """The projections around attention over a cache, as `components.attention.heads.Projections`."""

    def cached_qkv(self, x: Tensor, rotate: Rotate | None) -> tuple[Tensor, Tensor, Tensor]: ...

    def cached_output(self, attended: Tensor) -> Tensor: ...


class PreparedPlainHeads:
    """H query and K key-value heads of size D: x [B, 1, d_model] → q [B, H, 1, D], k and v [B, K, 1, D]."""

    def __init__(self, qkv: Product, output: Product, sizes: tuple[int, int, int], norms: tuple[Form, Form] | None):
        self._qkv, self._output, self._norms = qkv, output, norms
        self._heads, self._kv_heads, self._size = sizes

    def cached_qkv(self, x: Tensor, rotate: Rotate | None) -> tuple[Tensor, Tensor, Tensor]:
        H, K = self._heads, self._kv_heads
        qkv = self._qkv(x).view(x.shape[0], H + 2 * K, 1, self._size)  # one token: no transposition
        if self._norms is not None:
            q, k, v = torch.split_with_sizes(qkv, [H, K, K], dim=1)
            q, k = self._norms[0](q), self._norms[1](k)
            return (q, k, v) if rotate is None else (rotate(q), rotate(k), v)
        qk, v = torch.split_with_sizes(qkv, [H + K, K], dim=1)
        q, k = torch.split_with_sizes(qk if rotate is None else rotate(qk), [H, K], dim=1)
        return q, k, v

    def cached_output(self, attended: Tensor) -> Tensor:
        """[B, H, 1, D] → [B, 1, d_model]."""
        return self._output(attended.reshape(attended.shape[0], 1, -1))


class PreparedAttention:
    """The form of `Attention`.

    Args:
        heads: its projections, or a form of theirs.
        ring: the number of its ring.
        rotation: the number of its rotation.
        slopes: [H] of ALiBi.
        sources: whether its values are those that later layers mix in.
        sinks, value_mix: its parameters.
    """

    def __init__(
        self,
        spec: AttentionSpec,
        heads: PreparedHeads,
        ring: int,
        rotation: int,
        slopes: Tensor | None,
        sinks: nn.Parameter | None,
        value_mix: nn.Parameter | None,
        value_size: int,
        *,
        sources: bool,
    ) -> None:
        self._spec, self._heads, self._ring, self._rotation = spec, heads, ring, rotation
        self._slopes, self._sinks, self._value_mix, self._value_size = slopes, sinks, value_mix, value_size
        self._sources = sources

    def __call__(self, x: Tensor, context: ForwardContext) -> Tensor:
        """x [B, 1, d_model] → [B, 1, d_model]; the token's key and value go into the cache, in place."""
        assert context.frame is not None
        ring, tensors = context.frame.rings[self._ring], context.cache.tensors
        q, k, v = self._heads.cached_qkv(x, context.frame.rotations[self._rotation])
        if self._sources:
            context.first_values.append(v)
        if self._value_mix is not None:
            v = torch.lerp(context.first_values[0].to(v.dtype), v, self._value_mix.to(v.dtype))
        ring.keep(tensors["keys"], k)
        keys = ring.visible(tensors["keys"])
        if "values" in tensors:
            ring.keep(tensors["values"], v)
            values = ring.visible(tensors["values"])
        else:
            values = keys[..., : self._value_size]
        visible = Visible(keys, values, ring.hidden, None if self._slopes is None else ring.ages)
        return self._heads.cached_output(attend_one(self._spec, q, visible, self._slopes, self._sinks))

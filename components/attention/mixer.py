"""One attention layer: projections, positions, and a kernel that computes the layer's spec."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from components.attention import kernels
from components.attention.decoding import attend_one
from components.attention.heads import CachedProjections, Heads, Projections
from components.attention.qk_norm import QKNorm
from components.attention.spec import AttentionInputs, AttentionSpec
from components.cache import KeyValues, Step
from components.compile_opaque import Whole
from components.forward_context import Frame
from components.initialization import Constant, Fill
from components.position.positions import Position

attend = Whole(kernels.attend)

Values = Literal["own", "first", "mixed"]
"""A layer's values: its own; its own, which later layers mix in; or its own mixed with that first layer's."""


class Attention(nn.Module):
    """Causal self-attention over [B, T, d_model].

    Of its own it has at most `sinks` [n_heads] (logits that carry no value) and `value_mix` [1] (the share of a layer's
    own values where the first layer's are mixed in).
    """

    def __init__(
        self,
        d_model: int,
        heads: Heads,
        qk_norm: QKNorm,
        position: Position,
        spec: AttentionSpec,
        values: Values = "own",
    ) -> None:
        super().__init__()
        self.heads = heads.build(d_model, qk_norm)
        self.spec = spec
        self.position = position
        self.sizes = heads
        self.values = values
        self.sinks = nn.Parameter(torch.empty(heads.n_heads)) if heads.sinks else None
        self.value_mix = nn.Parameter(torch.empty(1)) if values == "mixed" else None

    def fills(self) -> dict[str, Fill]:
        starts: dict[str, Fill] = {"sinks": Constant(0.0), "value_mix": Constant(0.5)}
        return {name: starts[name] for name, _ in self.named_parameters(recurse=False)}

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        """x [B, T, d_model] → [B, T, d_model]."""
        if frame.step is not None:
            return self._continue(x, frame, frame.step)
        attended = attend.call(self.spec, self.inputs(x, frame), kernel=frame.kernel)
        return cast(Projections, self.heads).output(attended)

    def inputs(self, x: Tensor, frame: Frame) -> AttentionInputs:
        """What the kernel gets of a whole text, x [B, T, d_model]."""
        q, k, v = cast(Projections, self.heads).qkv(x, frame.rotations.get((self.position, self.sizes.rotary_size)))
        return AttentionInputs(
            q,
            k,
            self._mixed(v, frame),
            alibi_slopes=frame.slopes.get((self.position, self.sizes.n_heads)),
            sinks=self.sinks,
            documents=frame.documents,
        )

    def new_cache(self, batch: int, capacity: int, like: Tensor) -> KeyValues:
        """Room for the keys and values that this layer needs of `capacity` tokens, in the dtype of `like`.

        Raises:
            ValueError: the heads don't say how they are cached.
        """
        if not hasattr(self.heads, "cached_qkv"):
            raise ValueError(f"heads={self.sizes.name} can't be cached: their projections have no cached_qkv")
        sizes, window = self.sizes.cached_sizes, self.spec.window
        slots = capacity if window is None else min(capacity, window)
        return KeyValues(batch, sizes.kv_heads, slots, sizes.key_size, sizes.value_size, shared=sizes.shared, like=like)

    def _continue(self, x: Tensor, frame: Frame, step: Step) -> Tensor:
        """As `forward`, for tokens whose predecessors are in the cache."""
        heads, cache = cast(CachedProjections, self.heads), cast(KeyValues, frame.cache)
        q, k, v = heads.cached_qkv(x, frame.rotations.get((self.position, self.sizes.rotary_size)))
        v = self._mixed(v, frame)
        slopes = frame.slopes.get((self.position, self.sizes.n_heads))
        if step.tokens == 1:
            cache.store_one(k, v, step.at)
            return heads.cached_output(attend_one(self.spec, q, cache, step, slopes, self.sinks))
        k, v = cache.join(k, v, step.at)
        offset = k.shape[2] - step.tokens
        documents = step.text_since(step.at - offset)
        inputs = AttentionInputs(q, k, v, offset, alibi_slopes=slopes, sinks=self.sinks, documents=documents)
        return heads.cached_output(attend.call(self.spec, inputs, kernel=frame.kernel))

    def _mixed(self, v: Tensor, frame: Frame) -> Tensor:
        """The layer's values, with the first layer's mixed in where layers share them."""
        if self.values == "first":
            frame.first_values.append(v)
        if self.value_mix is None:
            return v
        return torch.lerp(frame.first_values[0].to(v.dtype), v, self.value_mix.to(v.dtype))

    def flops_per_key(self) -> float:
        """Multiply-adds · 2 of one query with one key: its score and its part of the weighted sum, over all heads."""
        return 2.0 * self.sizes.n_heads * (self.sizes.key_size + self.sizes.value_size)

    def flops_per_token(self, context: int) -> float:
        """Those of the keys that the mean token of a context of that length sees."""
        return self.flops_per_key() * mean_visible_keys(context, self.spec.window)

    def cache_elements(self, context: int) -> int:
        """Numbers that a key-value cache of this layer holds once it has seen `context` tokens."""
        kept = context if self.spec.window is None else min(context, self.spec.window)
        return self.sizes.cached_per_token * kept


def mean_visible_keys(context: int, window: int | None) -> float:
    """Mean over the queries of a context of the number of keys that each sees: mean of min(position + 1, window)."""
    full = min(context, window or context)
    return (full * (full + 1) / 2 + (context - full) * full) / context

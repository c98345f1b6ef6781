"""Attention as a mixer: its slots of a configuration, its options in one layer, and the module.

The module projects, positions, and calls a kernel that computes the layer's spec. Over a cache, `decoding` attends from
one new token, and a kernel from several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from components.attention import kernels
from components.attention.decoding import Visible, attend_one
from components.attention.heads import Heads, Projections
from components.attention.key_values import KeyValues
from components.attention.prepared import PreparedAttention
from components.attention.qk_norm import QKNorm
from components.attention.slots import SLOTS, AttentionSlots
from components.attention.spec import AttentionInputs, AttentionSpec
from components.cache import CacheTensor, Step
from components.compile_opaque import Opaque
from components.forward_context import ForwardContext
from components.initialization import Constant, Fill
from components.mixers.base import Mixer, MixerModule
from components.position.positions import HeadPosition, Position
from components.registry import Component, OptionError, names, register
from components.stepping.preparation import Form, Preparation, is_observed

attend = Opaque(kernels.attend)

C = TypeVar("C", bound=Component)

Values = Literal["own", "first", "mixed"]
"""A layer's values: its own; its own, which later layers mix in; or its own mixed with that first layer's."""


@register("attention")
class AttentionMixer(Mixer):
    """Attention as the slots heads, qk_norm, span, position and softcap say."""

    slots = SLOTS

    @property
    def reads(self) -> tuple[str, ...]:
        return (*SLOTS, "softcap.attention")

    def resolve(self, slots: AttentionSlots, kind: str) -> ResolvedAttention:
        heads, qk_norm = _given(slots.heads, "heads"), _given(slots.qk_norm, "qk_norm")
        span, position = _given(slots.span, "span"), _given(slots.position, "position")
        try:
            position.check_head_dim(heads.rotary_size)
        except OptionError as error:
            raise error.within("position") from None
        refusal = heads.qk_norm_refusal(qk_norm)
        if refusal is not None:
            raise OptionError("qk_norm", refusal)
        return ResolvedAttention(
            heads=heads,
            qk_norm=qk_norm,
            window=span.window_of(kind),
            position=position,
            cap=slots.cap,
            values="mixed" if heads.value_residual else "own",
        )


def _given(component: C | None, slot: str) -> C:
    if component is None:
        raise OptionError(slot, f"is missing: layers that attend need one of {', '.join(names(slot))}")
    return component


@dataclass(frozen=True, kw_only=True)
class ResolvedAttention(AttentionMixer):
    """Attention in one layer, every option decided.

    Attributes:
        window: how many keys a query sees, its own included; None for every earlier token.
        cap: the soft-cap of the scores, or None.
        values: where its values come from, if layers share the first one's (`heads.value_residual`).
    """

    heads: Heads
    qk_norm: QKNorm
    window: int | None
    position: Position
    cap: float | None
    values: Values = "own"

    @property
    def spec(self) -> AttentionSpec:
        """What it computes."""
        return AttentionSpec(scale=self.heads.scale, window=self.window, softcap=self.cap)

    @property
    def positions(self) -> tuple[HeadPosition, ...]:
        return (HeadPosition(self.position, self.heads.rotary_size, self.heads.n_heads),)

    def case(
        self, device: str, dtype: torch.dtype, batch: int, context: int, *, training: bool, documents: bool
    ) -> kernels.Case:
        """The kernel call that it makes for [batch, context] tokens."""
        heads = self.heads
        return kernels.Case(
            device=device,
            dtype=dtype,
            batch=batch,
            heads=heads.n_heads,
            kv_heads=heads.kv_heads,
            queries=context,
            keys=context,
            head_dim=heads.key_size,
            value_dim=heads.value_size,
            training=training,
            alibi=self.position.alibi_slopes(heads.n_heads) is not None,
            sinks=heads.sinks,
            documents=documents,
        )

    def build(self, d_model: int) -> Attention:
        return Attention(d_model, self.heads, self.qk_norm, self.position, self.spec, self.values)


class Attention(MixerModule):
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
        projections = heads.build(d_model, qk_norm)
        if not isinstance(projections, Projections):
            raise TypeError(f"heads={heads.name}: build must return a components.attention.heads.Projections")
        self.heads = projections
        self.spec = spec
        self.position = position
        self.sizes = heads
        self.values = values
        self.sinks = nn.Parameter(torch.empty(heads.n_heads)) if heads.sinks else None
        self.value_mix = nn.Parameter(torch.empty(1)) if values == "mixed" else None

    def fills(self) -> dict[str, Fill]:
        starts: dict[str, Fill] = {"sinks": Constant(0.0), "value_mix": Constant(0.5)}
        return {name: starts[name] for name, _ in self.named_parameters(recurse=False)}

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        """x [B, T, d_model] → [B, T, d_model]."""
        if context.step is not None:
            return self._continue(x, context, context.step)
        attended = attend.call(self.spec, self.inputs(x, context), kernel=context.kernel)
        return self.heads.output(attended)

    def inputs(self, x: Tensor, context: ForwardContext) -> AttentionInputs:
        """What the kernel gets of a whole text, x [B, T, d_model]."""
        q, k, v = self.heads.qkv(x, context.rotations.get((self.position, self.sizes.rotary_size)))
        return AttentionInputs(
            q,
            k,
            self._mixed(v, context),
            alibi_slopes=context.slopes.get((self.position, self.sizes.n_heads)),
            sinks=self.sinks,
            documents=context.documents,
        )

    def cache_tensors(self, capacity: int, dtype: torch.dtype) -> dict[str, CacheTensor]:
        """Keys and values of `capacity` tokens, or of a window's; where keys contain the values, keys alone."""
        sizes, slots = self.sizes.cached_sizes, self._slots(capacity)
        keys = CacheTensor((sizes.kv_heads, slots, sizes.key_size), dtype)
        return {"keys": keys} | (
            {} if sizes.shared else {"values": CacheTensor((sizes.kv_heads, slots, sizes.value_size), dtype)}
        )

    def new_cache(self, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> KeyValues:
        return KeyValues(super().new_cache(batch, capacity, dtype, device), self.sizes.cached_sizes.value_size)

    def prepared(self, preparation: Preparation) -> Form | None:
        if type(self) is not Attention or is_observed(self):
            return None
        slopes = self.position.alibi_slopes(self.sizes.n_heads)
        return PreparedAttention(
            self.spec,
            self.heads.prepared(preparation) or self.heads,
            preparation.ring(self._slots(preparation.capacity)),
            preparation.rotation(self.position, self.sizes.rotary_size),
            None if slopes is None else slopes.to(preparation.device),
            self.sinks,
            self.value_mix,
            self.sizes.cached_sizes.value_size,
            sources=self.values == "first",
        )

    @property
    def reach(self) -> int | None:
        return self.spec.window

    @property
    def reads_by_products(self) -> bool:
        return self.heads.reads_by_products

    @property
    def flops_per_pair(self) -> float:
        """Of a score and its part of the weighted sum, over all heads."""
        return 2.0 * self.sizes.n_heads * (self.sizes.key_size + self.sizes.value_size)

    def flops_per_token(self, context: int) -> float:
        """Those of the keys that the mean token of the context sees."""
        return self.flops_per_pair * mean_visible_keys(context, self.spec.window)

    def stand_ins(self, batch: int, context: int, like: Tensor, *, training: bool, documents: bool) -> AttentionInputs:
        """Inputs without memory or values, to ask kernels which of them would compute [batch, context] tokens."""
        sizes, slopes = self.sizes, self.position.alibi_slopes(self.sizes.n_heads)
        one = like.new_empty(1, requires_grad=training)
        ids = torch.empty(1, 1, dtype=torch.long, device=like.device).expand(batch, context)
        return AttentionInputs(
            q=one.expand(batch, sizes.n_heads, context, sizes.key_size),
            k=one.expand(batch, sizes.kv_heads, context, sizes.key_size),
            v=one.expand(batch, sizes.kv_heads, context, sizes.value_size),
            alibi_slopes=None if slopes is None else slopes.to(like.device),
            sinks=like.new_empty(sizes.n_heads) if sizes.sinks else None,
            documents=ids if documents else None,
        )

    def _continue(self, x: Tensor, context: ForwardContext, step: Step) -> Tensor:
        """As `forward`, for tokens whose predecessors are in the cache; it keeps their keys and values in place."""
        cache = cast(KeyValues, context.cache)
        q, k, v = self.heads.cached_qkv(x, context.rotations.get((self.position, self.sizes.rotary_size)))
        v = self._mixed(v, context)
        slopes = context.slopes.get((self.position, self.sizes.n_heads))
        if step.tokens == 1:
            cache.store_one(k, v, step.at)
            keys, values = cache.used(min(step.at + 1, cache.slots))
            visible = Visible(
                keys, values, step.hidden(cache.slots), None if slopes is None else step.ages(cache.slots)
            )
            return self.heads.cached_output(attend_one(self.spec, q, visible, slopes, self.sinks))
        k, v = cache.join(k, v, step.at)
        offset = k.shape[2] - step.tokens
        documents = step.text_since(step.at - offset)
        inputs = AttentionInputs(q, k, v, offset, alibi_slopes=slopes, sinks=self.sinks, documents=documents)
        return self.heads.cached_output(attend.call(self.spec, inputs, kernel=context.kernel))

    def _slots(self, capacity: int) -> int:
        """Tokens that a cache keeps of a text of up to `capacity`."""
        return capacity if self.spec.window is None else min(capacity, self.spec.window)

    def _mixed(self, v: Tensor, context: ForwardContext) -> Tensor:
        """The layer's values, with the first layer's mixed in where layers share them."""
        if self.values == "first":
            context.first_values.append(v)
        if self.value_mix is None:
            return v
        return torch.lerp(context.first_values[0].to(v.dtype), v, self.value_mix.to(v.dtype))


def mean_visible_keys(context: int, window: int | None) -> float:
    """Mean over the queries of a context of the number of keys that each sees: mean of min(position + 1, window)."""
    full = min(context, window or context)
    return (full * (full + 1) / 2 + (context - full) * full) / context

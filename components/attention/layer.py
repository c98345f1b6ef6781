"""One attention layer: projections, positions, and a kernel that computes the layer's spec."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from components.attention.heads import Heads, Projections
from components.attention.kernels import attend
from components.attention.qk_norm import QKNorm
from components.attention.spec import AttentionInputs, AttentionSpec
from components.frame import Frame
from components.initialization import Constant, Fill
from components.position import Position

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
        heads = cast(Projections, self.heads)
        q, k, v = heads.qkv(x, frame.rotations.get((self.position, self.sizes.rotary_size)))
        if self.values == "first":
            frame.first_values.append(v)
        if self.value_mix is not None:
            v = torch.lerp(frame.first_values[0].to(v.dtype), v, self.value_mix.to(v.dtype))
        inputs = AttentionInputs(
            q,
            k,
            v,
            alibi_slopes=frame.slopes.get((self.position, self.sizes.n_heads)),
            sinks=self.sinks,
            documents=frame.documents,
        )
        return heads.output(attend(self.spec, inputs, kernel=frame.kernel))

    def flops_per_token(self, context: int) -> float:
        """Multiply-adds · 2 of the scores and the weighted sum, for the mean token of a context of that length."""
        sizes = self.sizes
        return 2.0 * sizes.n_heads * (sizes.key_size + sizes.value_size) * mean_visible_keys(context, self.spec.window)

    def cache_elements(self, context: int) -> int:
        """Numbers that a key-value cache of this layer holds once it has seen `context` tokens."""
        kept = context if self.spec.window is None else min(context, self.spec.window)
        return self.sizes.cached_per_token * kept


def mean_visible_keys(context: int, window: int | None) -> float:
    """Mean over the queries of a context of the number of keys that each sees: mean of min(position + 1, window)."""
    full = min(context, window or context)
    return (full * (full + 1) / 2 + (context - full) * full) / context

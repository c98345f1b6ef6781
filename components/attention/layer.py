"""One attention layer: projections, positions, and a kernel that computes the layer's spec."""

from __future__ import annotations

from torch import Tensor, nn

from components.attention.heads import Heads
from components.attention.kernels import attend
from components.attention.qk_norm import QKNorm
from components.attention.spec import AttentionInputs, AttentionSpec
from components.frame import Frame
from components.position import Position


class Attention(nn.Module):
    """Causal self-attention over [B, T, d_model]."""

    def __init__(self, d_model: int, heads: Heads, qk_norm: QKNorm, position: Position, spec: AttentionSpec) -> None:
        super().__init__()
        self.heads = heads.build(d_model, qk_norm)
        self.spec = spec
        self.position = position
        self.n_heads, self.n_kv_heads, self.head_dim = heads.n_heads, heads.kv_heads, heads.head_dim

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        """x [B, T, d_model] → [B, T, d_model]."""
        q, k, v = self.heads.qkv(x, frame.rotations.get((self.position, self.head_dim)))
        slopes = frame.slopes.get((self.position, self.n_heads))
        inputs = AttentionInputs(q, k, v, alibi_slopes=slopes, documents=frame.documents)
        return self.heads.output(attend(self.spec, inputs, kernel=frame.kernel))

    def flops_per_token(self, context: int) -> float:
        """Multiply-adds · 2 of the scores and the weighted sum, for the mean token of a context of that length."""
        return 4.0 * self.n_heads * self.head_dim * mean_visible_keys(context, self.spec.window)

    def cache_elements(self, context: int) -> int:
        """Numbers that a key-value cache of this layer holds once it has seen `context` tokens."""
        kept = context if self.spec.window is None else min(context, self.spec.window)
        return 2 * self.n_kv_heads * self.head_dim * kept


def mean_visible_keys(context: int, window: int | None) -> float:
    """Mean over the queries of a context of the number of keys that each sees: mean of min(position + 1, window)."""
    full = min(context, window or context)
    return (full * (full + 1) / 2 + (context - full) * full) / context

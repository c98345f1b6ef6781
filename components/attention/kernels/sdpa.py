"""torch's scaled_dot_product_attention, for the specs that it can honour."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from components.attention.kernels.kernel import Case, Kernel, Reach, accumulator, reach
from components.attention.kernels.reproducible import repeatable
from components.attention.spec import AttentionInputs, AttentionSpec


class Sdpa(Kernel):
    """torch's fused attention. A mask is built only where is_causal alone would not say the same."""

    name = "sdpa"

    def spec_refusal(
        self, spec: AttentionSpec, *, alibi: bool = False, sinks: bool = False, documents: bool = False, device: str
    ) -> str | None:
        if spec.softcap is not None:
            return f"softcap = {spec.softcap:g}: torch's fused attention has no soft-cap; use blockwise or reference"
        if sinks:
            return "sinks: torch's fused attention has none; use blockwise or reference"
        return None

    def compute(self, spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
        q, k, v = inputs.q, inputs.k, inputs.v
        seen = reach(spec, inputs)
        k, v = k[:, :, seen.start : seen.stop], v[:, :, seen.start : seen.stop]
        mask = _mask(seen, inputs)
        out = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=spec.dropout,
            is_causal=mask is None and seen.causal,
            scale=spec.scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return repeatable(out, "ScaledDotProduct") if q.is_cuda else out


def is_fused(spec: AttentionSpec, case: Case) -> bool:
    """Whether torch takes a fused CUDA kernel that skips what is hidden, for lack of a mask to read.

    Its flash kernel takes 16-bit inputs up to head_dim 256; its memory-efficient one fp32, without grouped heads.
    """
    masked = spec.causal and case.queries > 1 and not case.own_positions
    masked = masked or (spec.window is not None and spec.window < case.keys) or case.alibi or case.documents
    if masked or spec.softcap is not None or case.sinks:
        return False
    if case.dtype in (torch.float16, torch.bfloat16):
        return case.head_dim == case.value_dim <= 256
    return case.dtype == torch.float32 and case.heads == case.kv_heads


def _mask(seen: Reach, inputs: AttentionInputs) -> Tensor | None:
    """None where is_causal says it all, else bool [T, S'] or [B, 1, T, S'], or with ALiBi a bias [B or 1, H, T, S']."""
    slopes, documents = inputs.alibi_slopes, inputs.documents
    upper_left = seen.offset == 0 or not seen.causal  # is_causal lets query i see keys 0 to i
    if upper_left and seen.window is None and slopes is None and documents is None:
        return None
    T, device = inputs.q.shape[2], inputs.q.device
    query = torch.arange(seen.offset, seen.offset + T, device=device)[:, None]
    key = torch.arange(seen.stop - seen.start, device=device)[None, :]
    mask = torch.ones(T, seen.stop - seen.start, dtype=torch.bool, device=device)
    if seen.causal:
        mask = mask & (key <= query)
    if seen.window is not None:
        mask = mask & (query - key < seen.window)
    if documents is not None:
        of_query = documents[:, inputs.offset : inputs.offset + T]
        mask = mask & (of_query[:, None, :, None] == documents[:, None, None, seen.start : seen.stop])
    if slopes is None:
        return mask
    exact = accumulator(inputs.q.dtype)
    bias = slopes.to(exact)[:, None, None] * (key - query)
    return bias.masked_fill(~mask, float("-inf"))

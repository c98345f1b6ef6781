"""Attention by the book, one query and one key at a time in fp64: what every kernel is held against.

Written from the spec's docstring and sharing no code with the kernels: python loops, no masks, no broadcasting.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from components.attention.spec import AttentionInputs, AttentionSpec

DIFFERENTIABLE = ("q", "k", "v", "alibi_slopes", "sinks")
IN_DOUBLE = ("blockwise", "sdpa", "reference")
"""The kernels that train in fp64 on a CPU."""


def attend_by_the_book(spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
    """[B, H, T, Dv] in fp64, differentiable by autograd."""
    B, H, T, _ = inputs.q.shape
    K, S = inputs.k.shape[1:3]
    q, k, v = inputs.q.double(), inputs.k.double(), inputs.v.double()
    sequences = []
    for b in range(B):
        heads = []
        for h in range(H):
            kv_head = h // (H // K)
            products = q[b, h] @ k[b, kv_head].T
            rows = []
            for i in range(T):
                position = inputs.offset + i
                seen, scores = [], []
                for j in range(S):
                    if spec.causal and j > position:
                        continue
                    if spec.window is not None and j not in range(position - spec.window + 1, position + 1):
                        continue
                    if inputs.documents is not None and int(inputs.documents[b, j]) != int(
                        inputs.documents[b, position]
                    ):
                        continue
                    score = products[i, j] * spec.scale
                    if spec.softcap is not None:
                        score = spec.softcap * torch.tanh(score / spec.softcap)
                    if inputs.alibi_slopes is not None:
                        score = score - inputs.alibi_slopes[h].double() * (position - j)
                    seen.append(j)
                    scores.append(score)
                if inputs.sinks is not None:
                    scores.append(inputs.sinks[h].double())
                weights = torch.stack(scores).softmax(0)
                rows.append(
                    sum((weights[n] * v[b, kv_head, j] for n, j in enumerate(seen)), torch.zeros_like(v[0, 0, 0]))
                )
            heads.append(torch.stack(rows))
        sequences.append(torch.stack(heads))
    return torch.stack(sequences)


def leaves(inputs: AttentionInputs) -> tuple[AttentionInputs, dict[str, Tensor]]:
    """The inputs with fresh leaves for every tensor that has a gradient, and those leaves by name."""
    fresh = {
        name: tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        for name in DIFFERENTIABLE
        if (tensor := getattr(inputs, name)) is not None
    }
    return replace(inputs, **fresh), fresh


def draw_inputs(
    seed: int = 0,
    *,
    batch: int = 1,
    heads: int = 4,
    kv_heads: int = 2,
    queries: int = 9,
    offset: int = 0,
    ahead: int = 0,
    head_dim: int = 8,
    value_dim: int | None = None,
    dtype: torch.dtype = torch.float64,
    alibi: bool = False,
    sinks: bool = False,
    documents: bool = False,
) -> AttentionInputs:
    """Inputs whose scores are large enough for caps, windows and sinks to matter; `ahead` keys follow the queries."""
    generator = torch.Generator().manual_seed(seed)
    keys = offset + queries + ahead

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    ids = torch.randint(0, 2, (batch, keys), generator=generator)
    return AttentionInputs(
        q=(2 * draw(batch, heads, queries, head_dim)).to(dtype),
        k=(2 * draw(batch, kv_heads, keys, head_dim)).to(dtype),
        v=draw(batch, kv_heads, keys, value_dim or head_dim).to(dtype),
        offset=offset,
        alibi_slopes=(draw(heads) / 4).to(dtype) if alibi else None,
        sinks=(2 * draw(heads) + 1).to(dtype) if sinks else None,
        documents=ids.cumsum(1) // 3 if documents else None,
    )

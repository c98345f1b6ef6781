"""What attention computes, independent of how. Every kernel honours a spec in full or refuses it.

    scores = scale · q·kᵀ → softcap · tanh(scores / softcap) → + ALiBi → mask → softmax (with sinks) → dropout → · v

The cap comes before the mask (a cap after it would leak the future), and a window of W lets a query see exactly W
keys, its own included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionSpec:
    """Semantics of one attention layer.

    Attributes:
        scale: factor on q·k before anything else.
        causal: a query at position p sees no key after p.
        window: how many keys a query sees, its own included (causal only); None for all.
        softcap: scores become softcap · tanh(scores / softcap) before the mask; None for none.
        dropout: probability of dropping an attention weight in training.
    """

    scale: float
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1 (a query sees its own key), got {self.window}")
        if self.window is not None and not self.causal:
            raise ValueError("a window is defined for causal attention only")
        if self.softcap is not None and self.softcap <= 0:
            raise ValueError(f"softcap must be positive, got {self.softcap}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class AttentionInputs:
    """Tensors of one attention call. B batch, T queries, S keys, H query heads, K key-value heads, D head_dim.

    Attributes:
        q: [B, H, T, D]
        k: [B, K, S, D]; query head h reads key-value head h // (H / K)
        v: [B, K, S, Dv]
        offset: position of the first query among the keys: query i is at position offset + i, key j at j.
            T = S and offset = 0 in training; with a cache offset is the number of tokens already in it.
        alibi_slopes: [H], adds -slope · (query position - key position) to the capped scores; None for none.
        sinks: [H], a learned logit a head that takes part in the softmax and carries no value; None for none.
        documents: [B, S] integer ids; a query sees only keys of its own document; None for one document.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    offset: int = 0
    alibi_slopes: Tensor | None = None
    sinks: Tensor | None = None
    documents: Tensor | None = None

    def __post_init__(self) -> None:
        if self.q.shape[1] % self.k.shape[1]:
            raise ValueError(f"{self.q.shape[1]} query heads do not divide among {self.k.shape[1]} key-value heads")


def visible(spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
    """The mask that the spec declares: bool [T, S], or [B, 1, T, S] with documents. True where a query sees a key."""
    T, S = inputs.q.shape[2], inputs.k.shape[2]
    device = inputs.q.device
    query = torch.arange(inputs.offset, inputs.offset + T, device=device)[:, None]
    key = torch.arange(S, device=device)[None, :]
    mask = torch.ones(T, S, dtype=torch.bool, device=device)
    if spec.causal:
        mask = mask & (key <= query)
    if spec.window is not None:
        mask = mask & (query - key < spec.window)
    if inputs.documents is not None:
        of_query = inputs.documents[:, inputs.offset : inputs.offset + T]
        mask = mask & (of_query[:, None, :, None] == inputs.documents[:, None, None, :])
    return mask

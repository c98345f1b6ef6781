"""Which blocks of keys each block of queries needs, for FlexAttention, from positions and document ids alone.

    causal, window 6, blocks of 4:     full   every query sees every key
      queries  8..11 │ . p p p         p      partly: the mask decides, key by key
      queries 12..15 │ . . p p         .      skipped

torch's own `create_block_mask` asks the mask for all T×S pairs. Here documents cost O(T) and the rest O((T / block)²).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from components.attention.kernels.kernel import Reach

BLOCK = 128  # torch's default, a multiple of every tile that it may choose


def masking(seen: Reach, documents: Tensor | None) -> Callable[..., Tensor]:
    """Whether a query sees a key, by their indices in the call, as FlexAttention asks.

    Args:
        seen: the stretch of keys that the call was cut down to.
        documents: [B, S] ids of all keys, before that cut.
    """
    causal, window, offset, start = seen.causal, seen.window, seen.offset, seen.start

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        position = query + offset
        visible = (key <= position) if causal else (key >= 0)
        if window is not None:
            visible = visible & (position - key < window)
        if documents is not None:
            visible = visible & (documents[batch, position + start] == documents[batch, key + start])
        return visible

    return mask_mod


def block_mask(seen: Reach, queries: int, device: torch.device, documents: Tensor | None, block: int = BLOCK) -> Any:
    """A `torch.nn.attention.flex_attention.BlockMask` of T queries on the keys of `seen`.

    Args:
        queries: T.
        documents: [B, S] ids of all keys.
        block: queries, and keys, a block.
    """
    from torch.nn.attention.flex_attention import BlockMask

    keys = seen.stop - seen.start
    first_q, last_q, whole_q = (x[:, None] for x in _bounds(queries, block, device))
    first_q, last_q = first_q + seen.offset, last_q + seen.offset  # positions among the keys
    first_k, last_k, whole_k = _bounds(keys, block, device)
    every = whole_q & whole_k
    some = torch.ones_like(every)
    if seen.causal:
        some, every = some & (first_k <= last_q), every & (last_k <= first_q)
    if seen.window is not None:
        some, every = some & (first_q - last_k < seen.window), every & (last_q - first_k < seen.window)
    some, every = some[None], every[None]  # [B or 1, blocks of queries, blocks of keys]
    if documents is not None:
        begin = seen.start + seen.offset
        low_q, high_q = _range(documents[:, begin : begin + queries], block)
        low_k, high_k = _range(documents[:, seen.start : seen.stop], block)
        low_q, high_q, low_k, high_k = low_q[:, :, None], high_q[:, :, None], low_k[:, None], high_k[:, None]
        some = some & (low_q <= high_k) & (low_k <= high_q)  # at least: ids in between may be missing
        every = every & (low_q == high_q) & (low_k == high_k) & (low_q == low_k)
    counts, indices = _listed(some & ~every)
    full_counts, full_indices = _listed(every)
    return BlockMask.from_kv_blocks(
        counts,
        indices,
        full_counts,
        full_indices,
        BLOCK_SIZE=block,
        mask_mod=masking(seen, documents),
        seq_lengths=(queries, keys),
    )


def _bounds(length: int, block: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """First and last index of each block, and whether it is whole."""
    first = torch.arange(0, length, block, device=device)
    return first, (first + block - 1).clamp(max=length - 1), first + block <= length


def _range(ids: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """ids [B, N] → least and greatest of each block, [B, blocks]."""
    short = -ids.shape[1] % block
    padded = torch.cat([ids, ids[:, -1:].expand(-1, short)], dim=1).reshape(ids.shape[0], -1, block)
    return padded.amin(-1), padded.amax(-1)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """bool [B, Q, K] → how many blocks each row has, int32 [B, 1, Q], and their indices first, int32 [B, 1, Q, K]."""
    counts = blocks.sum(-1, dtype=torch.int32)
    indices = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return counts[:, None].contiguous(), indices[:, None].contiguous()

"""The scores of one tile of blockwise attention, made the same way in the forward and the backward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from components.attention.kernels.blockwise.tiles import QueryBlock, Scratch, Tiling
from components.attention.kernels.kernel import accumulator


@dataclass(frozen=True)
class ReachedSpec:
    """An AttentionSpec restricted to the keys that a call reaches."""

    scale: float
    softcap: float | None
    causal: bool
    window: int | None
    offset: int


@dataclass(frozen=True)
class Piece:
    """A block of queries of some of the N heads, which a pass works on at a time. Rows are its heads' queries."""

    heads: slice
    block: QueryBlock
    group: int

    def of(self, x_NMX: Tensor) -> Tensor:
        """This piece's rows, a view [n, R, X]."""
        return x_NMX[self.heads, self.block.start * self.group : self.block.stop * self.group]

    def by_query(self, x_nRX: Tensor) -> Tensor:
        """Rows as [n, G, queries, X], a view."""
        n, _, X = x_nRX.shape
        return x_nRX.view(n, len(self.block), self.group, X).transpose(1, 2)


class Scores:
    """Capped, biased and masked scores of queries q [B, H, T, D] on keys k [B, K, S, D], a tile at a time.

    A cap bounds every exponential, so rows need no maximum, and masks can multiply afterwards. Where nothing bounds
    them (no cap, a cap too high, ALiBi), scores are held in base 2 and masks add -inf: the exponential of base 2 keeps
    its speed on -inf and far below zero, where the natural one of MKL takes up to 90 times as long.

    Attributes:
        dtype: of every score: fp32, or fp64 for fp64.
        bounded: whether the cap alone keeps every sum of exponentials in range.
        base: natural logarithm of the base in which logits are held: 1, or ln 2 where they are not bounded.
        group: G.
        factor: what queries are multiplied by in advance.
        q_NMD: the queries so multiplied.
    """

    def __init__(
        self, q: Tensor, k: Tensor, slopes: Tensor | None, documents: Tensor | None, spec: ReachedSpec
    ) -> None:
        self.dtype = accumulator(q.dtype)
        self.group = q.shape[1] // k.shape[1]
        self.k_NSD = flat(k, self.dtype)
        # At 0.6 of the last exponent there is room for sums over keys, and for small gradients times exp(-cap).
        limit = 0.6 * math.log(torch.finfo(self.dtype).max)
        self.bounded = spec.softcap is not None and spec.softcap <= limit and slopes is None
        self.base = 1.0 if self.bounded else math.log(2)
        self._cap = None if spec.softcap is None else spec.softcap / self.base
        self.scale = spec.scale
        self.factor = spec.scale / (spec.softcap or self.base)
        self.q_NMD = rows(q, self.group).to(self.dtype) * self.factor
        self.tiling = Tiling(
            q.shape[2],
            k.shape[2],
            spec.offset,
            causal=spec.causal,
            window=spec.window,
            group=self.group,
            marks=(1.0, 0.0) if self.bounded else (0.0, -math.inf),
            like=self.k_NSD,
        )
        self.scratch = Scratch(self.k_NSD)
        self._batch = q.shape[0]
        self._bias_NG11 = None if slopes is None else self.by_head(slopes) / self.base
        self._documents_NS = None if documents is None else documents.repeat_interleave(k.shape[1], dim=0)

    def by_head(self, x_H: Tensor) -> Tensor:
        """A number a query head, as [N, G, 1, 1] in the scores' dtype."""
        return x_H.to(self.dtype).expand(self._batch, -1).reshape(-1, self.group, 1, 1)

    def pieces(self) -> Iterator[Piece]:
        """Everything there is to compute, a block of queries of some heads at a time."""
        N, step = self.q_NMD.shape[0], self.tiling.heads_at_once
        for first in range(0, N, step):
            heads = slice(first, min(first + step, N))
            for block in self.tiling.blocks():
                yield Piece(heads, block, self.group)

    def logits(self, piece: Piece, tile: slice, *, keep_tanh: bool = False) -> tuple[Tensor, Tensor | None]:
        """A tile's capped and biased scores over `base`, masked unless bounded, and the cap's tanh if it is kept.

        Both [n, R, W], in scratch memory: good until the next tile.
        """
        q_nRD = piece.of(self.q_NMD)
        shape = (*q_nRD.shape[:2], tile.stop - tile.start)
        logits = self.scratch.take("logits", *shape)
        tanh = None
        torch.bmm(q_nRD, self.k_NSD[piece.heads, tile].mT, out=logits)
        if self._cap is not None and keep_tanh:
            tanh = torch.tanh(logits, out=self.scratch.take("tanh", *shape))
            torch.mul(tanh, self._cap, out=logits)
        elif self._cap is not None:
            logits.tanh_().mul_(self._cap)
        if self._bias_NG11 is not None:
            # slope · (key - first) - slope · (query - first): two vectors to add, where their product would be a tile.
            bias_nG11, first = self._bias_NG11[piece.heads], piece.block.position
            key = torch.arange(tile.start - first, tile.stop - first, device=logits.device)
            query = torch.arange(len(piece.block), device=logits.device)[:, None]
            piece.by_query(logits).add_(bias_nG11 * key).sub_(bias_nG11 * query)
        if not self.bounded:
            for cut, mask in self.tiling.cuts(piece.by_query(logits), piece.block, tile):
                cut.add_(mask)
            if self._documents_NS is not None:
                piece.by_query(logits).masked_fill_(~self._same_document(piece, tile), -math.inf)
        return logits, tanh

    def exponentiate_(self, logits: Tensor, piece: Piece, tile: slice) -> Tensor:
        """Turn a tile's logits, less anything a row, into weights in place: zero where a key is hidden."""
        if not self.bounded:
            return logits.exp2_()
        logits.exp_()
        by_query = piece.by_query(logits)
        for cut, mask in self.tiling.cuts(by_query, piece.block, tile):
            cut.mul_(mask)
        if self._documents_NS is not None:
            by_query.mul_(self._same_document(piece, tile))
        return logits

    def _same_document(self, piece: Piece, tile: slice) -> Tensor:
        """Whether query and key are of one document: bool [n, 1, queries, W]."""
        assert self._documents_NS is not None
        documents = self._documents_NS[piece.heads, None]
        of_query = documents[..., piece.block.position : piece.block.last + 1]
        return of_query[..., :, None] == documents[..., None, tile]


def rows(x: Tensor, group: int) -> Tensor:
    """[B, H, T, X] as [N, M, X]: the G heads that share a key-value head in turn, query by query."""
    B, H, T, X = x.shape
    return x.view(B, H // group, group, T, X).transpose(2, 3).reshape(-1, T * group, X)


def heads(x_NMX: Tensor, like: Tensor, group: int) -> Tensor:
    """Rows as [B, H, T, X] again: the dtype of `like` [B, H, T, …], the layout in which projections read heads."""
    B, H, T = like.shape[:3]
    x_BTKGX = x_NMX.view(B, H // group, T, group, -1).transpose(1, 2)
    return x_BTKGX.to(like.dtype).reshape(B, T, H, -1).transpose(1, 2)


def flat(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, K, S, X] as [N, S, X] in the scores' dtype."""
    return x.to(dtype).flatten(0, 1)

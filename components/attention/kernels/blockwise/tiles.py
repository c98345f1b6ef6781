"""How blockwise attention cuts queries × keys into tiles: their sizes, which keys a block needs, and what is hidden.

Only the tiles that a diagonal crosses are masked: the start of the window on the left, the present on the right. Both
triangles have the same shape for every block of queries, so that one of each serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Measured on CPU: tiles of this many scores (all rows of all heads at once) stay in cache and are few. Fewer rows would
# waste less on the diagonals, which counts where a window is short; more would feed the matrix products better.
TILE_SCORES = 512 * 1024
ROWS = 128
LANES = 16  # tiles start and end at whole vectors of keys where the window allows


@dataclass(frozen=True)
class QueryBlock:
    """Queries start to stop, stop excluded, of a call; `position` is that of the first among the keys."""

    start: int
    stop: int
    position: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def last(self) -> int:
        """Position of the last query of the block."""
        return self.position + len(self) - 1


class Tiling:
    """Cuts T queries × S keys, the first query at position `offset`, into blocks of queries and tiles of keys.

    Args:
        queries: T.
        keys: S.
        offset: position of the first query among the keys.
        causal: no key after the query.
        window: how many keys a query sees, its own included; None for all.
        group: query heads that share a key-value head, whose rows share a tile.
        marks: what a mask holds where a key is seen and where it is hidden: (1, 0) to multiply, (0, -inf) to add.
        like: a tensor of the dtype and device of the scores.
    """

    def __init__(
        self,
        queries: int,
        keys: int,
        offset: int,
        *,
        causal: bool,
        window: int | None,
        group: int,
        marks: tuple[float, float],
        like: Tensor,
    ) -> None:
        self.queries, self.keys, self.offset, self.causal, self.window = queries, keys, offset, causal, window
        self._like = like
        self.rows = min(queries, ROWS, max(LANES, keys if window is None else window // 2))
        widest = max(ROWS, TILE_SCORES // (2 * group * self.rows) // LANES * LANES)
        self.width = min(widest, max(self._spans()))
        self.heads_at_once = max(1, TILE_SCORES // (group * self.rows * self.width))

        visible, hidden = marks
        row = torch.arange(self.rows, device=like.device)[:, None]
        key = torch.arange(-LANES, self.rows, device=like.device)  # a tile may begin before its oldest key
        triangle = torch.where(key <= row, visible, hidden).to(like.dtype)
        self._causal_cut = triangle[:, LANES:]
        self._window_cut = torch.where(key >= row, visible, hidden).to(like.dtype)

    def blocks(self) -> Iterator[QueryBlock]:
        """The queries, block by block."""
        for start in range(0, self.queries, self.rows):
            yield QueryBlock(start, min(start + self.rows, self.queries), self.offset + start)

    def tiles(self, block: QueryBlock) -> Iterator[slice]:
        """The keys that some query of a block sees, tile by tile. The first may begin a few hidden keys early."""
        start, stop = self._span(block)
        pieces = math.ceil((stop - start) / self.width)
        width = math.ceil((stop - start) / pieces / LANES) * LANES
        for left in range(start, stop, width):
            yield slice(left, min(left + width, stop))

    def cuts(self, scores: Tensor, block: QueryBlock, tile: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of a tile's scores [..., queries, width] that a diagonal crosses, views, each with its mask."""
        queries = len(block)
        if self.causal and tile.stop > block.position + 1:
            left = max(tile.start, block.position)
            mask = self._causal_cut[:queries, left - block.position : tile.stop - block.position]
            yield scores[..., left - tile.start :], mask
        if self.window is not None:
            oldest = block.position - self.window + 1  # key of the first query; the r-th query's is oldest + r
            right = min(tile.stop, oldest + queries - 1)
            if tile.start < right:
                mask = self._window_cut[:queries, tile.start - oldest + LANES : right - oldest + LANES]
                yield scores[..., : right - tile.start], mask

    def distance(self, block: QueryBlock, tile: slice) -> Tensor:
        """Query position less key position: [queries, keys] of a tile, in the scores' dtype."""
        query = torch.arange(block.position, block.last + 1, device=self._like.device)
        key = torch.arange(tile.start, tile.stop, device=self._like.device)
        return (query[:, None] - key).to(self._like.dtype)

    def _span(self, block: QueryBlock) -> tuple[int, int]:
        stop = min(block.last + 1, self.keys) if self.causal else self.keys
        if self.window is None:
            return 0, stop
        return max(0, block.position - self.window + 1) // LANES * LANES, stop

    def _spans(self) -> Iterator[int]:
        for block in self.blocks():
            start, stop = self._span(block)
            yield stop - start


class Scratch:
    """Named buffers that every tile of a pass overwrites. New buffers would cost page faults each time."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A contiguous tensor of that shape, with whatever was last written under that name."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = self._like.new_empty(size)
        return buffer[:size].view(shape)

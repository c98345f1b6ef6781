"""Rotary positions for one token at a time: tables over all positions, made once, and few operations a rotation.

`components.position.positions.Rotation` cuts vectors into halves and joins them again. For a long text that costs
nothing, for a single token it takes most of the time. Here y = x · cos + partner(x) · sin, with signed sines and tables
as wide as a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.position.positions import Rotation


class RotaryTable:
    """A rotation at positions 0 to P - 1, for vectors of `size` numbers."""

    def __init__(self, rotation: Rotation, size: int) -> None:
        cos, sin = rotation.cos, rotation.sin
        pairs, same = cos.shape[-1], torch.arange(size, device=cos.device)
        turned, half = same < 2 * pairs, rotation.pairing == "half"
        if half:
            order = torch.where(turned, (same + pairs) % (2 * pairs), same)
            cos, sin = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
        else:
            order = torch.where(turned, same ^ 1, same)
            cos, sin = cos.repeat_interleave(2, -1), torch.stack([-sin, sin], -1).flatten(-2)
        rest = (*cos.shape[:-1], size - 2 * pairs)
        self._cos = torch.cat([cos, cos.new_ones(rest)], -1)  # [P, size]
        self._sin = torch.cat([sin, sin.new_zeros(rest)], -1)
        self._order, self._by = order, pairs if half and 2 * pairs == size else None

    def at(self, positions: slice | Tensor) -> RowRotation:
        """The rotation of tokens at a slice of positions, or at [B, T] positions that differ by row."""
        cos, sin = self._cos[positions], self._sin[positions]
        if not isinstance(positions, slice):
            cos, sin = cos[:, None], sin[:, None]  # [B, 1, T, size]
        return RowRotation(cos, sin, self._order, self._by)


class RowRotation:
    """Rotates x [B, heads, T, size], same shape and dtype back.

    Args:
        order: [size], each number's partner in its pair; `by` says the same as a roll, where that is all it is.
    """

    def __init__(self, cos: Tensor, sin: Tensor, order: Tensor, by: int | None) -> None:
        self._cos, self._sin, self._order, self._by = cos, sin, order, by

    def __call__(self, x: Tensor) -> Tensor:
        partner = x.index_select(-1, self._order) if self._by is None else x.roll(self._by, -1)
        if x.dtype == self._cos.dtype:
            return torch.addcmul(x * self._cos, partner, self._sin)
        return torch.addcmul(x * self._cos.to(x.dtype), partner, self._sin.to(x.dtype))

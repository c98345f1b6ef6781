"""What attention keeps of earlier tokens: keys and values, in a ring of slots where it has a window."""

from __future__ import annotations

import torch
from torch import Tensor

from components.cache import LayerCache


class KeyValues(LayerCache):
    """Keys and values of an attention layer, [B, K, slots, size]: token t is in slot t modulo `slots`.

    The ring is written in place, as its memory is the largest of a cache.

    Attributes:
        keys: [B, K, slots, key_size]
        values: [B, K, slots, value_size]. Latent attention keeps none: its values are the first value_size numbers of
            each key.
    """

    def __init__(self, kept: LayerCache, value_size: int) -> None:
        super().__init__(kept.tensors)
        self.keys = kept["keys"]
        self.values = kept["values"] if "values" in kept.tensors else self.keys[..., :value_size]
        self.slots = self.keys.shape[2]
        self._rows = self.keys.flatten(0, 1), self.values.flatten(0, 1)
        self._buffers = tuple(kept.tensors.values())

    def used(self, count: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `count` slots, [B · K, count, size]: views."""
        keys, values = self._rows
        return (keys, values) if count == self.slots else (keys.narrow(1, 0, count), values.narrow(1, 0, count))

    def store_one(self, k: Tensor, v: Tensor, at: int) -> None:
        """`store` for one token."""
        for buffer, new in zip(self._buffers, (k, v), strict=False):
            buffer.narrow(2, at % self.slots, 1).copy_(new)

    def store(self, k: Tensor, v: Tensor, at: int) -> None:
        """Keep tokens at .. at + T - 1, or the last `slots` of them. k, v: [B, K, T, size]."""
        T = k.shape[2]
        kept = min(T, self.slots)
        first = (at + T - kept) % self.slots
        head = min(kept, self.slots - first)  # the rest goes to the beginning of the ring
        for buffer, new in zip(self._buffers, (k, v), strict=False):
            buffer[:, :, first : first + head].copy_(new[:, :, T - kept : T - kept + head])
            if head < kept:
                buffer[:, :, : kept - head].copy_(new[:, :, T - kept + head :])

    def join(self, k: Tensor, v: Tensor, at: int) -> tuple[Tensor, Tensor]:
        """Keep tokens as `store` does → them behind those that were kept before, in order: [B, K, S, size] each.

        Of a ring the oldest token before them is left out, which none of them sees.
        """
        T = k.shape[2]
        if at == 0:
            self.store(k, v, at)
            return k, v
        if at + T <= self.slots:  # nothing has wrapped, or will
            self.store(k, v, at)
            return self.keys[:, :, : at + T], self.values[:, :, : at + T]
        seen = min(at, self.slots - 1)
        order = torch.arange(at - seen, at, device=k.device) % self.slots
        joined = torch.cat([self.keys[:, :, order], k.to(self.keys.dtype)], dim=2)
        joined_v = torch.cat([self.values[:, :, order], v.to(self.values.dtype)], dim=2)
        self.store(k, v, at)
        return joined, joined_v

"""What a decoder keeps of the tokens that it has seen, so that the next one is a pass over itself alone.

A layer that sees everything keeps the keys and values of every token, one with a window of W those of the last W in a
ring, each for its key-value heads only; multi-head latent attention keeps its latent, linear attention its state.

Prompts of different lengths stand against their right ends: in a batch of 5 and 3 tokens, `. . a b c` under `a b c d
e`. So all rows write to one slot, a token's position is its slot less its row's start, and what stands before the start
is hidden. Times below are slots counted from the left end of that rectangle, wherever a ring keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from components.position.positions import Position
from components.position.rotary_table import RotaryTable, RowRotation


class LayerCache(Protocol):
    """What one layer keeps."""

    def tensors(self) -> list[Tensor]:
        """Everything that takes memory."""
        ...


class KeyValues:
    """Keys and values of an attention layer, [B, K, slots, size]: token t is in slot t modulo `slots`.

    Attributes:
        keys: [B, K, slots, key_size]
        values: [B, K, slots, value_size]; where `shared`, the first value_size numbers of each key, and no more memory.
    """

    def __init__(
        self, batch: int, kv_heads: int, slots: int, key_size: int, value_size: int, *, shared: bool, like: Tensor
    ) -> None:
        self.slots = slots
        # Not left as found: what hides a slot multiplies it by zero, and zero times NaN is NaN.
        self.keys = like.new_zeros(batch, kv_heads, slots, key_size)
        self.values = self.keys[..., :value_size] if shared else like.new_zeros(batch, kv_heads, slots, value_size)
        self._rows = self.keys.flatten(0, 1), self.values.flatten(0, 1)
        self._buffers = (self.keys,) if shared else (self.keys, self.values)

    def used(self, count: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `count` slots, [B · K, count, size]: views."""
        keys, values = self._rows
        return (keys, values) if count == self.slots else (keys.narrow(1, 0, count), values.narrow(1, 0, count))

    def store_one(self, k: Tensor, v: Tensor, at: int) -> None:
        """`store` for one token."""
        for buffer, new in zip(self._buffers, (k, v), strict=False):
            buffer.narrow(2, at % self.slots, 1).copy_(new)

    def tensors(self) -> list[Tensor]:
        return list(self._buffers)

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


class State:
    """The state of a recurrent layer, [B, H, D, Dv], zero before the first token."""

    def __init__(self, batch: int, n_heads: int, key_size: int, value_size: int, like: Tensor) -> None:
        exact = torch.promote_types(like.dtype, torch.float32)
        self.state = like.new_zeros(batch, n_heads, key_size, value_size, dtype=exact)

    def tensors(self) -> list[Tensor]:
        return [self.state]


class Cache:
    """What all layers keep, and how far the text has come. Made by `Decoder.new_cache`, written by its passes.

    Attributes:
        layers: one a layer.
        capacity: tokens that it has room for, padding included.
        length: tokens seen so far, padding included.
        starts: [B] padding before each row's first token; None where there is none.
    """

    def __init__(self, layers: Sequence[LayerCache], capacity: int, starts: Sequence[int], like: Tensor) -> None:
        self.layers = list(layers)
        self.capacity = capacity
        self.length = 0
        self.padding = max(starts, default=0)
        self.starts = torch.tensor(starts, device=like.device) if self.padding else None
        self._tables: dict[tuple[Position, int], RotaryTable | None] = {}
        self._device = like.device

    @property
    def bytes(self) -> int:
        """Bytes of everything that the layers keep: what `lab.accounting.cache_bytes` says."""
        return sum(x.numel() * x.element_size() for layer in self.layers for x in layer.tensors())

    def step(self, tokens: int) -> Step:
        """What the layers need to know of a pass over the next so many tokens.

        Raises:
            ValueError: there is no room for them, or the first pass ends before a row's first token.
        """
        if self.length + tokens > self.capacity:
            raise ValueError(f"{self.length} + {tokens} tokens are more than the cache's {self.capacity}")
        if self.length == 0 and tokens <= self.padding:
            raise ValueError(f"the first {tokens} tokens end before a row's first one, {self.padding} from the left")
        return Step(self.length, tokens, self.starts, self.padding, self._device)

    def rotation(self, step: Step, dtype: torch.dtype, position: Position, size: int) -> RowRotation | None:
        """The rotation of a pass's tokens: rows of a table that is made once."""
        if (position, size) not in self._tables:
            rotation = position.rotation(size, torch.arange(self.capacity, device=self._device), dtype)
            self._tables[position, size] = None if rotation is None else RotaryTable(rotation, size)
        table = self._tables[position, size]
        if table is None:
            return None
        return table.at(slice(step.at, step.at + step.tokens) if step.starts is None else step.positions)


class Step:
    """One pass over tokens at .. at + tokens - 1.

    Attributes:
        positions: of the tokens, [tokens], or [B, tokens] where rows start at different places; 0 in padding.
        documents: 0 for padding and 1 for text, [B, tokens], where there is padding among the tokens; else None.
    """

    def __init__(self, at: int, tokens: int, starts: Tensor | None, padding: int, device: torch.device) -> None:
        self.at, self.tokens, self.starts, self._padding, self._device = at, tokens, starts, padding, device
        self.positions = torch.arange(at, at + tokens, device=device)
        if starts is not None:
            self.positions = (self.positions - starts[:, None]).clamp_(min=0)
        self.documents = self.text_since(at) if tokens > 1 else None
        self._ages: dict[int, Tensor] = {}
        self._hidden: dict[int, Tensor | None] = {}

    def text_since(self, first: int) -> Tensor | None:
        """0 for padding and 1 for text of all tokens from time `first` to the last: [B, S]; None where all is text."""
        if self.starts is None or first >= self._padding:
            return None
        times = torch.arange(first, self.at + self.tokens, device=self._device)
        return (times >= self.starts[:, None]).long()

    def ages(self, slots: int) -> Tensor:
        """How many tokens ago each used slot was written, 0 for the pass's only token: [S]."""
        if slots not in self._ages:
            used = torch.arange(min(self.at + 1, slots), device=self._device)
            self._ages[slots] = (self.at - used) % slots
        return self._ages[slots]

    def hidden(self, slots: int) -> Tensor | None:
        """Which used slots hold padding: bool [B, 1, 1, S]; None where none does."""
        if slots not in self._hidden:
            oldest = max(0, self.at + 1 - slots)
            if self.starts is None or oldest >= self._padding:
                self._hidden[slots] = None
            else:
                self._hidden[slots] = (self.ages(slots) > self.at - self.starts[:, None])[:, None, None]
        return self._hidden[slots]

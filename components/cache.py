"""The cache of a decoder: what it keeps of earlier tokens, so that a pass covers the new tokens only.

Each mixer says which tensors it keeps of a text (`MixerModule.cache_tensors`). Attention keeps keys and values
(`components.attention.key_values`), a recurrent mixer its state.

Prompts of different lengths stand against their right ends: in a batch of 5 and 3 tokens, `. . a b c` under `a b c d
e`. So all rows write to one slot, a token's position is its slot less its row's start, and padding before the start is
hidden. Times below are slots counted from the left end of that rectangle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components.position.positions import Position
from components.position.rotary_table import RotaryTable, RowRotation


@dataclass(frozen=True)
class CacheTensor:
    """One tensor that a layer keeps for a text: its shape without the batch, and its dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numbers(self) -> int:
        """The number of its entries."""
        return torch.Size(self.shape).numel()

    @property
    def bytes(self) -> int:
        """The bytes of all tensors."""
        return self.numbers * self.dtype.itemsize


class LayerCache:
    """What one layer keeps for a batch of texts: `tensors` [B, …] by name."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    @classmethod
    def empty(cls, tensors: Mapping[str, CacheTensor], batch: int, device: torch.device) -> LayerCache:
        """The cache before the first token: zeros."""
        # Never uninitialised memory: hidden slots are multiplied by zero, and zero times NaN is NaN.
        return cls({name: torch.zeros(batch, *t.shape, dtype=t.dtype, device=device) for name, t in tensors.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


class CacheFailure(ValueError):
    """A layer's mixer can't continue a text from a cache: it keeps none, or lacks a tensor that it needs.

    Attributes:
        layer: the number of the layer.
        mixer: the name of the mixer.
    """

    def __init__(self, layer: int, mixer: str, cause: Exception | None = None) -> None:
        """
        Args:
            cause: what went wrong; None where the mixer says that it keeps no cache.
        """
        problem = "keeps no cache" if cause is None else "can't continue a text from a cache"
        reason = f" ({type(cause).__name__}: {cause})" if str(cause or "") else ""
        super().__init__(f"layer {layer}: mixer '{mixer}' {problem}{reason}")
        self.layer, self.mixer = layer, mixer


class Cache:
    """The caches of all layers, and the length of the texts. `Decoder.new_cache` makes it; each pass returns the next.

    Attributes:
        layers: one for each layer.
        capacity: how many tokens there is room for, padding included.
        length: tokens seen so far, padding included.
        padding: the most padding before a row's first token.
        starts: [B] padding before each row's first token; None where there is none.
    """

    def __init__(
        self, layers: Sequence[LayerCache], capacity: int, starts: Sequence[int], device: torch.device
    ) -> None:
        self.layers = tuple(layers)
        self.capacity = capacity
        self.length = 0
        self.padding = max(starts, default=0)
        self.starts = torch.tensor(starts, device=device) if self.padding else None
        self._tables: dict[tuple[Position, int], RotaryTable | None] = {}
        self._device = device

    @property
    def bytes(self) -> int:
        """Bytes of all layers' tensors, equal to what `lab.accounting.cache_bytes` computes."""
        return sum(tensor.numel() * tensor.element_size() for layer in self.layers for tensor in layer.tensors.values())

    def step(self, tokens: int) -> Step:
        """The step of a pass over the next `tokens` tokens, which the layers read.

        Raises:
            ValueError: the cache has no room for them, or the first pass ends before a row's first token.
        """
        if self.length + tokens > self.capacity:
            raise ValueError(f"{self.length} + {tokens} tokens are more than the cache's {self.capacity}")
        if self.length == 0 and tokens <= self.padding:
            raise ValueError(f"the first {tokens} tokens end before a row's first one, {self.padding} from the left")
        return Step(self.length, tokens, self.starts, self.padding, self._device)

    def after(self, step: Step, layers: Sequence[LayerCache]) -> Cache:
        """The cache after a pass, with the new `layers`. This one must not be used any more."""
        following = Cache.__new__(Cache)
        following.__dict__.update(self.__dict__)
        following.layers = tuple(layers)
        following.length = step.at + step.tokens
        return following

    def rotation(self, step: Step, dtype: torch.dtype, position: Position, size: int) -> RowRotation | None:
        """The rotation of a pass's tokens: rows of a table that is computed once."""
        if (position, size) not in self._tables:
            rotation = position.rotation(size, torch.arange(self.capacity, device=self._device), dtype)
            self._tables[position, size] = None if rotation is None else RotaryTable(rotation, size)
        table = self._tables[position, size]
        if table is None:
            return None
        return table.at(slice(step.at, step.at + step.tokens) if step.starts is None else step.positions)


class Step:
    """One pass over the tokens from time `at` to at + tokens - 1.

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
        """How many tokens ago each used slot of a ring was written, 0 for the pass's only token: [S]."""
        if slots not in self._ages:
            used = torch.arange(min(self.at + 1, slots), device=self._device)
            self._ages[slots] = (self.at - used) % slots
        return self._ages[slots]

    def hidden(self, slots: int) -> Tensor | None:
        """Which used slots of a ring hold padding: bool [B, 1, 1, S]; None where none does."""
        if slots not in self._hidden:
            oldest = max(0, self.at + 1 - slots)
            if self.starts is None or oldest >= self._padding:
                self._hidden[slots] = None
            else:
                self._hidden[slots] = (self.ages(slots) > self.at - self.starts[:, None])[:, None, None]
        return self._hidden[slots]

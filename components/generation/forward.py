"""Next-token logits of a batch of texts to which tokens are appended.

`CachedForward` computes them from what it keeps of the texts. `FullForward` goes through the whole texts again, and
gives what `CachedForward` must equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from components.cache import Cache
from components.decoder import Decoder


class NextLogits(Protocol):
    """Computes next-token logits of texts, one per row, to which tokens are appended."""

    def begin(self, prompts: Sequence[Sequence[int]], room: int) -> Tensor:
        """Start with these prompts of at least one token; up to `room` tokens will be appended → logits [B, V]."""

    def extend(self, tokens: Tensor) -> Tensor:
        """Append a token to each text, [B] → logits [B, V] of the token after it."""


class CachedForward:
    """Next-token logits with a cache: one pass over the prompts, then one pass for each new token.

    Prompts of different lengths form one batch, padded on the left.
    """

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self.cache: Cache | None = None

    def begin(self, prompts: Sequence[Sequence[int]], room: int) -> Tensor:
        longest = max(map(len, prompts))
        starts = [longest - len(prompt) for prompt in prompts]
        self.cache = self._model.new_cache(longest + room, starts)
        rows = [[0] * start + list(prompt) for start, prompt in zip(starts, prompts, strict=True)]
        return self._next(torch.tensor(rows, device=self._model.embedding.weight.device))

    def extend(self, tokens: Tensor) -> Tensor:
        return self._next(tokens[:, None])

    def _next(self, tokens: Tensor) -> Tensor:
        assert self.cache is not None
        hidden, self.cache = self._model.continued(tokens, self.cache)
        return self._model.logits(hidden[:, -1:])[:, 0]


class FullForward:
    """Next-token logits without a cache: for each new token, one forward pass over each whole text.

    Only the texts are kept between tokens: n tokens cost n passes, each longer than the one before.
    """

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._texts: list[Tensor] = []

    def begin(self, prompts: Sequence[Sequence[int]], room: int) -> Tensor:
        self._texts = [torch.tensor(prompt, device=self._model.embedding.weight.device) for prompt in prompts]
        return self._next()

    def extend(self, tokens: Tensor) -> Tensor:
        self._texts = [torch.cat([text, token[None]]) for text, token in zip(self._texts, tokens, strict=True)]
        return self._next()

    def _next(self) -> Tensor:
        last = [self._model.hidden(text[None])[:, -1:] for text in self._texts]
        return torch.cat([self._model.logits(hidden)[:, 0] for hidden in last])

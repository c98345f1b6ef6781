"""Generates text from a decoder, token by token: greedily, or sampled from the most likely tokens.

`CachedForward` computes the next token's logits from what it keeps of the text. `FullForward` goes through the whole
text again, and gives what `CachedForward` must equal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from components.cache import Cache
from components.decoder import Decoder
from components.registry import OptionError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn from logits: the temperature is applied first, then top_k, then top_p.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token, the first of equals.
        top_k: keep this many of the likeliest tokens; None for all.
        top_p: keep the fewest likeliest tokens whose probabilities reach this sum (Holtzman et al. 2020, 1904.09751);
            None for all.
        seed: of the draws.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise OptionError("temperature", f"must be 0 or above, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise OptionError("top_k", f"must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise OptionError("top_p", f"must lie in (0, 1], got {self.top_p}")
        if self.temperature == 0:
            for option in ("top_k", "top_p"):
                if getattr(self, option) is not None:
                    raise OptionError(option, "has no effect at temperature 0, which takes the likeliest token")

    def probabilities(self, logits: Tensor) -> Tensor:
        """logits [..., V] → probabilities in fp64, zero for tokens that are excluded. The temperature is above 0."""
        scaled = logits.double() / self.temperature
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            values, kept = scaled.topk(self.top_k)
            scaled = torch.full_like(scaled, -torch.inf).scatter(-1, kept, values)
        probabilities = scaled.softmax(-1)
        if self.top_p is not None:
            ordered, order = probabilities.sort(descending=True, stable=True)
            # The token that reaches the sum is included, so compare the sum before it.
            kept = ordered.masked_fill(ordered.cumsum(-1) - ordered >= self.top_p, 0.0)
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, kept)
            probabilities = probabilities / probabilities.sum(-1, keepdim=True)
        return probabilities


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


def generate(
    model: Decoder,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling,
    *,
    stop: Collection[int] = (),
    cached: bool = True,
) -> Iterator[int]:
    """The tokens that continue a prompt, one by one: `generate_batch` with one prompt."""
    steps = continuations(model, [prompt], max_tokens, sampling, stop=stop, cached=cached)
    return (token for (token,) in steps if token is not None)


def generate_batch(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    sampling: Sampling,
    *,
    stop: Collection[int] = (),
    cached: bool = True,
) -> list[list[int]]:
    """The tokens that continue each prompt, up to and including the first token of `stop`."""
    steps = list(continuations(model, prompts, max_tokens, sampling, stop=stop, cached=cached))
    return [[token for step in steps if (token := step[row]) is not None] for row in range(len(prompts))]


def continuations(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    sampling: Sampling,
    *,
    stop: Collection[int] = (),
    cached: bool = True,
) -> Iterator[list[int | None]]:
    """The next token of each prompt, step by step; None for one that has ended with a token of `stop`.

    The same prompts, sampling and weights give the same tokens on the same machine. Each prompt has random numbers of
    its own, the same for all, so that what it becomes doesn't depend on the others. The model should be in evaluation
    mode.

    Args:
        cached: keep what layers need of earlier tokens, in place of passes over the whole text.
    Raises:
        ValueError: a prompt is empty, a text would outgrow the model's positions, or a layer can't be cached; while it
            goes on, if the model's logits are not finite.
    """
    if not prompts or not all(prompts):
        raise ValueError("a prompt has at least one token")
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    limit, longest = model.architecture.max_context, max(map(len, prompts))
    if limit is not None and longest + max_tokens > limit:
        raise ValueError(
            f"{longest:,} tokens of prompt and {max_tokens:,} more are beyond the model's {limit:,} positions"
        )
    text: NextLogits = CachedForward(model) if cached else FullForward(model)
    return _continue(text, prompts, max_tokens, sampling, frozenset(stop))


def _continue(
    text: NextLogits, prompts: Sequence[Sequence[int]], max_tokens: int, sampling: Sampling, stop: frozenset[int]
) -> Iterator[list[int | None]]:
    # On the CPU, so that the draws are the same on every device.
    generators = [torch.Generator().manual_seed(sampling.seed) for _ in prompts]
    ended = [False] * len(prompts)
    newest: Tensor | None = None
    for _ in range(max_tokens):
        with torch.inference_mode():
            # The last token needs no slot, as no token follows it.
            logits = text.begin(prompts, max_tokens - 1) if newest is None else text.extend(newest)
            newest = _drawn(logits, sampling, generators)
        tokens = newest.tolist()
        yield [None if over else token for over, token in zip(ended, tokens, strict=True)]
        ended = [over or token in stop for over, token in zip(ended, tokens, strict=True)]
        if all(ended):
            return


def _drawn(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """logits [B, V] → a token for each row, [B], on their device."""
    highest, likeliest = logits.max(-1)  # NaN if there is one among them
    if not highest.isfinite().all():
        raise ValueError("the model's logits are not finite")
    if sampling.temperature == 0:
        return likeliest
    probabilities = sampling.probabilities(logits.cpu().float())
    rows = [torch.multinomial(row, 1, generator=draw) for row, draw in zip(probabilities, generators, strict=True)]
    return torch.cat(rows).to(logits.device)

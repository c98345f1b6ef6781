"""Text from a decoder, token by token: greedy, or sampled at a temperature from the likeliest tokens.

How the next token's logits are computed is one object's business (`FullForward`), so that one that keeps keys and
values between tokens takes its place without a change to anything else here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from components.decoder import Decoder
from components.registry import OptionError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn from logits: the temperature first, then top_k, then top_p.

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
        """logits [V] → probabilities [V] in fp64, zero for what may not be drawn. The temperature must not be 0."""
        scaled = logits.double() / self.temperature
        if self.top_k is not None and self.top_k < len(scaled):
            kept = scaled.topk(self.top_k).indices
            scaled = torch.full_like(scaled, -torch.inf).index_copy(0, kept, scaled[kept])
        probabilities = scaled.softmax(0)
        if self.top_p is not None:
            ordered, order = probabilities.sort(descending=True, stable=True)
            # The token that reaches the sum belongs to it: what counts is the sum before it.
            beyond = ordered.cumsum(0) - ordered >= self.top_p
            probabilities = probabilities.index_fill(0, order[beyond], 0.0)
            probabilities = probabilities / probabilities.sum()
        return probabilities


class NextLogits(Protocol):
    """Gives the logits that follow a text which only ever grows."""

    def extend(self, tokens: Tensor) -> Tensor:
        """Append tokens [n] to the text → logits [V] of what comes after it."""


class FullForward:
    """Next-token logits from a forward pass over the whole text, anew for each token.

    Nothing is kept between tokens but the text: n tokens cost n passes, the last of them over all of it.
    """

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._text: Tensor | None = None

    def extend(self, tokens: Tensor) -> Tensor:
        self._text = tokens if self._text is None else torch.cat([self._text, tokens])
        hidden = self._model.hidden(self._text[None])
        return self._model.logits(hidden[:, -1:])[0, 0]


def generate(
    model: Decoder, prompt: Sequence[int], max_tokens: int, sampling: Sampling, *, stop: Collection[int] = ()
) -> Iterator[int]:
    """The tokens that continue a prompt, one by one, ending with the first of `stop`, which is among them.

    The same prompt, sampling and weights give the same tokens on the same machine. The model should be in evaluation
    mode.

    Raises:
        ValueError: the prompt is empty, or the text would outgrow the model's positions; while it goes on, if the
            model's logits are not finite.
    """
    if not prompt:
        raise ValueError("a prompt has at least one token")
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    limit = model.architecture.max_context
    if limit is not None and len(prompt) + max_tokens > limit:
        raise ValueError(
            f"{len(prompt):,} tokens of prompt and {max_tokens:,} more are beyond the model's {limit:,} positions"
        )
    return _continue(FullForward(model), prompt, max_tokens, sampling, frozenset(stop), model.embedding.weight.device)


def _continue(
    text: NextLogits,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling,
    stop: frozenset[int],
    device: torch.device,
) -> Iterator[int]:
    generator = torch.Generator().manual_seed(sampling.seed)  # on the CPU: the same draws whatever the device
    tokens = list(prompt)
    for _ in range(max_tokens):
        with torch.no_grad():
            logits = text.extend(torch.tensor(tokens, device=device)).float().cpu()
        if not logits.isfinite().any() or logits.isnan().any():
            raise ValueError("the model's logits are not finite")
        if sampling.temperature == 0:
            token = int(logits.argmax())
        else:
            token = int(torch.multinomial(sampling.probabilities(logits), 1, generator=generator))
        yield token
        if token in stop:
            return
        tokens = [token]

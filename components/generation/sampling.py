"""How a token is drawn from next-token logits: greedily, or sampled from the most likely tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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


def drawn(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """logits [B, V] → a token for each row, [B], on their device.

    Raises:
        ValueError: logits are not finite.
    """
    highest, likeliest = logits.max(-1)  # NaN if there is one among them
    if not highest.isfinite().all():
        raise ValueError("the model's logits are not finite")
    if sampling.temperature == 0:
        return likeliest
    probabilities = sampling.probabilities(logits.cpu().float())
    rows = [torch.multinomial(row, 1, generator=draw) for row, draw in zip(probabilities, generators, strict=True)]
    return torch.cat(rows).to(logits.device)

"""Soft-capping: cap · tanh(x / cap) bounds a logit and keeps a gradient (Gemma 2, 2408.00118).

On attention scores the cap is applied before the mask, by the attention kernels; on the final logits by `softcap`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.registry import Component, OptionError, register


class Softcap(Component, kind="softcap"):
    """Which logits are bounded by a tanh, and where."""

    @property
    def attention_cap(self) -> float | None:
        """Bound of the attention scores, or None."""
        return None

    @property
    def final_cap(self) -> float | None:
        """Bound of the output logits, or None."""
        return None


def _check_cap(option: str, value: float) -> None:
    if value <= 0:
        raise OptionError(option, f"a cap must be positive, got {value}; for none, choose softcap=none")


@register("none")
class NoSoftcap(Softcap):
    """No cap anywhere."""


@register("attention")
class AttentionSoftcap(Softcap):
    """A cap on the attention scores only."""

    attention: float = 50.0

    def __post_init__(self) -> None:
        _check_cap("attention", self.attention)

    @property
    def attention_cap(self) -> float | None:
        return self.attention


@register("final")
class FinalSoftcap(Softcap):
    """A cap on the output logits only."""

    final: float = 30.0

    def __post_init__(self) -> None:
        _check_cap("final", self.final)

    @property
    def final_cap(self) -> float | None:
        return self.final


@register("gemma2")
class Gemma2Softcap(Softcap):
    """Gemma 2's two caps: 50 on the attention scores, 30 on the output logits."""

    attention: float = 50.0
    final: float = 30.0

    def __post_init__(self) -> None:
        _check_cap("attention", self.attention)
        _check_cap("final", self.final)

    @property
    def attention_cap(self) -> float | None:
        return self.attention

    @property
    def final_cap(self) -> float | None:
        return self.final


def softcap(x: Tensor, cap: float | None) -> Tensor:
    """cap · tanh(x / cap), any shape, in x's dtype; x itself where cap is None."""
    return x if cap is None else torch.tanh(x / cap) * cap

"""Rotary positions stretched to contexts longer than those of training: the same pairs, turning more slowly.

Each computes its frequencies as the transformers library does, so that published models come out the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from components.position.positions import Rotary
from components.registry import OptionError, register


@dataclass(frozen=True, kw_only=True)
class ScaledRotary(Rotary):
    """Rotary positions for contexts `factor` times as long as those of training."""

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_at_least(1, "factor")


@register("rope_linear")
class LinearRoPE(ScaledRotary):
    """Position interpolation: every pair turns `factor` times as slowly (Chen et al. 2023, 2306.15595)."""

    def frequencies(self, powers: Tensor) -> Tensor:
        return 1.0 / powers / self.factor


@register("rope_llama3")
class Llama3RoPE(ScaledRotary):
    """Llama 3.1's scaling: only pairs that turn slowly are slowed further, with a smooth passage (2407.21783).

    A pair that makes more than `high_freq_factor` turns in the original context is left as it is, one that makes fewer
    than `low_freq_factor` turns `factor` times as slowly, and those between get a mean of the two.
    """

    original_context: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_at_least(1, "original_context")
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise OptionError(
                "low_freq_factor",
                f"must lie between 0 and high_freq_factor = {self.high_freq_factor}, got {self.low_freq_factor}",
            )

    def frequencies(self, powers: Tensor) -> Tensor:
        frequencies = 1.0 / powers
        wavelengths = 2 * math.pi / frequencies
        low, high = self.low_freq_factor, self.high_freq_factor
        weight = (self.original_context / wavelengths - low) / (high - low)
        mixed = (1 - weight) * frequencies / self.factor + weight * frequencies
        slow = wavelengths > self.original_context / low
        fast = wavelengths < self.original_context / high
        return torch.where(slow, frequencies / self.factor, torch.where(fast, frequencies, mixed))


@register("rope_yarn")
class YarnRoPE(ScaledRotary):
    """YaRN: slow pairs interpolated, fast ones kept, a linear ramp between, and sharper scores (2309.00071).

    The ramp runs from the pair that makes `beta_fast` turns in the original context to the one that makes `beta_slow`,
    counted in whole pairs if `truncate`. What is rotated is multiplied by `attention_factor`, 0.1 · ln(factor) + 1
    where it isn't given.
    """

    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_at_least(1, "original_context")
        if not 0 < self.beta_slow <= self.beta_fast:
            raise OptionError("beta_slow", f"must lie between 0 and beta_fast = {self.beta_fast}, got {self.beta_slow}")
        self.need_positive("attention_factor")

    @property
    def gain(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0

    def frequencies(self, powers: Tensor) -> Tensor:
        pairs = len(powers)
        low, high = self._ramp(2 * pairs)
        ramp = (torch.arange(pairs, dtype=powers.dtype, device=powers.device) - low) / (high - low)
        kept = 1 - ramp.clamp(0, 1)
        return 1.0 / (self.factor * powers) * (1 - kept) + 1.0 / powers * kept

    def _ramp(self, rotary_dim: int) -> tuple[float, float]:
        """The pairs between which the ramp runs."""
        low, high = self._pair_that_turns(self.beta_fast, rotary_dim), self._pair_that_turns(self.beta_slow, rotary_dim)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rotary_dim - 1)
        return low, high + 0.001 if low == high else high

    def _pair_that_turns(self, turns: float, rotary_dim: int) -> float:
        """The fractional index of the pair that makes this number of turns in the original context."""
        return rotary_dim * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

"""How a model knows the order of its tokens: rotated queries and keys, a bias on the scores, an embedding, or nothing.

A position acts in at most one of three places, and a layer kind may choose its own for the first two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from components.fused import rotary
from components.registry import Component, OptionError, register

Rotate = Callable[[Tensor], Tensor]
"""Rotates vectors [B, heads, T, size] by their positions."""


class Position(Component, kind="position"):
    """How a model knows the order of its tokens."""

    embeds: ClassVar[bool] = False
    """Whether it is added to the token embedding, where every layer reads it."""

    def rotation(self, head_dim: int, positions: Tensor, dtype: torch.dtype = torch.float32) -> Rotation | None:
        """Rotation of queries and keys at integer `positions` [T], or None.

        dtype: the activations'; tables are in fp32, or in fp64 for fp64.
        """
        return None

    def alibi_slopes(self, n_heads: int) -> Tensor | None:
        """Slopes [n_heads] of a linear bias on the scores, fp32, or None."""
        return None

    def build_embedding(self, d_model: int) -> nn.Module | None:
        """A module mapping (positions [T], dtype) to vectors [T, d_model] added to the token embedding, or None."""
        return None

    @property
    def max_context(self) -> int | None:
        """The longest context that it can represent, or None where there is no limit."""
        return None

    def check_head_dim(self, head_dim: int) -> None:
        """Raise OptionError if heads of this size cannot be positioned so."""


@dataclass(frozen=True)
class HeadPosition:
    """A position as heads of a given number and rotary size look it up in the forward context."""

    position: Position
    rotary_size: int
    n_heads: int


@dataclass(frozen=True)
class Rotation:
    """Rotary tables of one forward pass: cos and sin, [T, pairs] in fp32 (in fp64 for fp64 inputs)."""

    cos: Tensor
    sin: Tensor
    pairing: Literal["half", "interleaved"]

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate the first 2 · pairs of x's last dimension. x: [B, heads, T, head_dim], same shape and dtype back."""
        if x.dim() == 4 and rotary.PIECE.takes(x, self.cos, self.sin) and self.cos.dtype == torch.float32:
            return rotary.rotate(x, self.cos, self.sin, interleaved=self.pairing == "interleaved")
        return self.naive(x)

    def naive(self, x: Tensor) -> Tensor:
        """As `__call__`, from torch's operations, in x's dtype."""
        pairs = self.cos.shape[-1]
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
        if self.pairing == "half":
            first, second = turned[..., :pairs], turned[..., pairs:]
            parts = [first * cos - second * sin, second * cos + first * sin]
            return torch.cat([*parts, rest] if rest.shape[-1] else parts, dim=-1)
        first, second = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


def kept_rotation(
    context: int, dtype: torch.dtype, device: torch.device, position: Position, rotary_size: int
) -> Rotation | None:
    """`position.rotation` at positions 0 to context - 1. The tables are kept: don't write to them."""
    # What counts or fakes tensors must see them made, and fakes must not outlive it.
    watched = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    return (_rotation if watched else _kept)(context, dtype, device, position, rotary_size)


def _rotation(
    context: int, dtype: torch.dtype, device: torch.device, position: Position, rotary_size: int
) -> Rotation | None:
    return position.rotation(rotary_size, torch.arange(context, device=device), dtype)


@functools.lru_cache(maxsize=8)
def _kept(
    context: int, dtype: torch.dtype, device: torch.device, position: Position, rotary_size: int
) -> Rotation | None:
    with torch.inference_mode(False):  # tables made in inference could not be used in training
        return _rotation(context, dtype, device, position, rotary_size)


@dataclass(frozen=True, kw_only=True)
class Rotary(Position):
    """Positions that turn pairs of values of queries and keys.

    Attributes:
        theta: base of the frequencies.
        fraction: the part of the head that is rotated (GPT-NeoX: 0.25).
        pairing: which values form a pair: value i with i + rotary_dim / 2 (half: Llama, Gemma) or 2i with 2i + 1
            (interleaved: Cohere, DeepSeek).
    """

    theta: float = 10_000.0
    fraction: float = 1.0
    pairing: Literal["half", "interleaved"] = "half"

    def __post_init__(self) -> None:
        if self.theta <= 1:
            raise OptionError("theta", f"must be above 1, got {self.theta}")
        if not 0 < self.fraction <= 1:
            raise OptionError("fraction", f"must lie in (0, 1], got {self.fraction}")

    def check_head_dim(self, head_dim: int) -> None:
        rotary_dim = int(head_dim * self.fraction)
        if rotary_dim < 2 or rotary_dim % 2:
            raise OptionError(
                "fraction", f"rotates {rotary_dim} of head_dim {head_dim} values; it must be an even number, at least 2"
            )

    def rotation(self, head_dim: int, positions: Tensor, dtype: torch.dtype = torch.float32) -> Rotation:
        rotary_dim = int(head_dim * self.fraction)
        exact = torch.promote_types(dtype, torch.float32)
        exponents = torch.arange(0, rotary_dim, 2, dtype=exact, device=positions.device) / rotary_dim
        angles = positions.to(exact)[:, None] * self.frequencies(self.theta**exponents)
        return Rotation(angles.cos() * self.gain, angles.sin() * self.gain, self.pairing)

    def frequencies(self, powers: Tensor) -> Tensor:
        """Radians a token by which each pair turns, [pairs], from the powers theta^(2i / rotary_dim)."""
        return 1.0 / powers

    @property
    def gain(self) -> float:
        """A factor on cos and sin, which scales what was rotated."""
        return 1.0


@register("rope")
class RoPE(Rotary):
    """Rotary positions (Su et al. 2021, 2104.09864): pair i of a head turns by position · theta^(-2i / rotary_dim)."""


@register("alibi")
class ALiBi(Position):
    """A penalty on the scores, linear in the distance, with a slope a head (Press et al. 2021, 2108.12409)."""

    def alibi_slopes(self, n_heads: int) -> Tensor:
        """2^(-8 i / n) for n a power of two; else the next lower power's, then every other of the next higher's."""

        def geometric(n: int) -> list[float]:
            return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

        lower = 2 ** math.floor(math.log2(n_heads))
        return torch.tensor(geometric(lower) + geometric(2 * lower)[0::2][: n_heads - lower])


@register("nope")
class NoPosition(Position):
    """No positions: a causal decoder can infer them from the mask (Kazemnejad et al. 2023, 2305.19466)."""

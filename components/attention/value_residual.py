"""Value residual: later attention layers mix the first one's values into their own (Zhou et al. 2024, 2410.17897)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard

from components.attention.mixer import ResolvedAttention
from components.mixers.base import Mixer


def with_first_values(mixers: Sequence[Mixer]) -> tuple[Mixer, ...]:
    """The mixers of all layers, in order, with the first one that shares its values made their source."""
    for number, mixer in enumerate(mixers):
        if _shares(mixer):
            return (*mixers[:number], replace(mixer, values="first"), *mixers[number + 1 :])
    return tuple(mixers)


def refusal(mixers: Sequence[Mixer]) -> tuple[int, str] | None:
    """The number of a layer that can't share values, and why; None where all can."""
    sharing = {number: mixer.heads for number, mixer in enumerate(mixers) if _shares(mixer)}
    if not sharing:
        return None
    (number, first), *others = sharing.items()
    if not others:
        return number, "needs a second attention layer that the first one's values reach"
    for number, heads in others:
        if (heads.kv_heads, heads.value_size) != (first.kv_heads, first.value_size):
            return number, (
                f"mixes the first layer's values, {first.kv_heads} heads of {first.value_size}, into "
                f"{heads.kv_heads} heads of {heads.value_size}: they must be the same"
            )
    return None


def _shares(mixer: Mixer) -> TypeGuard[ResolvedAttention]:
    return isinstance(mixer, ResolvedAttention) and mixer.values != "own"

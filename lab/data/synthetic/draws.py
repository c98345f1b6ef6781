"""Addressed random numbers: each depends on (seed, item, purpose, place in the row) alone. Vectorised over items.

SplitMix64 (Steele, Lea and Flood 2014) over a counter: a row of numbers is its stream from a state that hashes the
address. So an item is the same in every batch, and the numbers for one purpose don't depend on those for another.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_STEP = 0x9E3779B97F4A7C15


class Draws:
    """The random numbers of some items; every array has a row for each item."""

    def __init__(self, seed: str, items: Ints) -> None:
        """
        Args:
            seed: any text; the same for all items.
            items: the numbers of the items, from 0: int64 [B].
        """
        self.items = items
        self._state = _mix(_mix(items.astype(np.uint64) + np.uint64(_hash_to_word(seed))))

    def uniform(self, purpose: str, n: int) -> npt.NDArray[np.float64]:
        """Uniform in [0, 1): float64 [B, n]. The purpose is part of the address."""
        first = _mix(self._state ^ np.uint64(_hash_to_word(purpose)))
        steps = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_STEP)
        return (_mix(first[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, purpose: str, high: int, n: int) -> Ints:
        """Uniform integers from 0 to high - 1: [B, n]."""
        return (self.uniform(purpose, n) * high).astype(np.int64)

    def distinct(self, purpose: str, high: int, n: int) -> Ints:
        """n distinct integers from 0 to high - 1, every choice and order equally likely: [B, n]."""
        ranks = self.uniform(purpose, n) * (high - np.arange(n))
        values = np.empty((len(self.items), n), dtype=np.int64)
        for j in range(n):
            taken = np.sort(values[:, :j], axis=1)
            values[:, j] = skip_taken(ranks[:, j : j + 1].astype(np.int64), taken)[:, 0]
        return values

    def weighted(self, purpose: str, weights: npt.NDArray[np.float64], n: int) -> Ints:
        """n distinct indices of `weights`, drawn one after another in proportion to the remaining weights: [B, n].

        The same distribution as numpy's `choice(replace=False, p=…)`. Divide a standard exponential variate by each
        weight; the indices of the n smallest results, in order, are such a draw (Efraimidis and Spirakis 2006).
        """
        arrivals = -np.log1p(-self.uniform(purpose, len(weights))) / weights
        return np.argsort(arrivals, axis=1, kind="stable")[:, :n].astype(np.int64)


def skip_taken(ranks: Ints, taken: Ints) -> Ints:
    """The numbers at `ranks` among the non-negative integers that aren't taken.

    Args:
        ranks: [B, n].
        taken: [B, k], each row ascending.

    Returns:
        [B, n].
    """
    numbers = ranks.copy()
    for column in taken.T:
        numbers += numbers >= column[:, None]
    return numbers


def _hash_to_word(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _mix(x: Words) -> Words:
    """SplitMix64's output function."""
    shift: Any = np.uint64
    x = (x ^ (x >> shift(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> shift(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = x ^ (x >> shift(31))
    return mixed

"""Random numbers by address: of (seed, item, what for, place in a row) alone, for many items at once.

SplitMix64 (Steele, Lea and Flood 2014) over a counter: a row of numbers is its stream from a state that hashes the
address. So an item is the same in whichever batch it is drawn, and numbers for one thing move when no others do.
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
    """The random numbers of some items; every array here has a row for each."""

    def __init__(self, seed: str, items: Ints) -> None:
        """
        Args:
            seed: of all items; any text.
            items: their numbers, from 0: [B].
        """
        self.items = items
        self._state = _mixed(_mixed(items.astype(np.uint64) + np.uint64(_word(seed))))

    def uniform(self, what: str, n: int) -> npt.NDArray[np.float64]:
        """[B, n] in [0, 1). `what` they are for is part of the address."""
        first = _mixed(self._state ^ np.uint64(_word(what)))
        steps = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_STEP)
        return (_mixed(first[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, what: str, high: int, n: int) -> Ints:
        """[B, n], each evenly one of 0 … high - 1."""
        return (self.uniform(what, n) * high).astype(np.int64)

    def distinct(self, what: str, high: int, n: int) -> Ints:
        """[B, n]: n different ones of 0 … high - 1, every choice and order equally likely."""
        places = self.uniform(what, n) * (high - np.arange(n))
        chosen = np.empty((len(self.items), n), dtype=np.int64)
        for j in range(n):
            taken = np.sort(chosen[:, :j], axis=1)
            chosen[:, j] = skipping(places[:, j : j + 1].astype(np.int64), taken)[:, 0]
        return chosen

    def weighted(self, what: str, weights: npt.NDArray[np.float64], n: int) -> Ints:
        """[B, n]: n different places of `weights`, one after another, each by the weights of those that are left.

        As numpy's choice(replace=False, p=…). The places of the least exponentials, each divided by its weight, in
        order, are that (Efraimidis and Spirakis 2006).
        """
        arrivals = -np.log1p(-self.uniform(what, len(weights))) / weights
        return np.argsort(arrivals, axis=1, kind="stable")[:, :n].astype(np.int64)


def skipping(ranks: Ints, taken: Ints) -> Ints:
    """The numbers that stand at `ranks` [B, n] among those that a row of `taken` [B, k], ascending, leaves."""
    found = ranks.copy()
    for column in taken.T:
        found += found >= column[:, None]
    return found


def _word(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _mixed(x: Words) -> Words:
    """SplitMix64's output function."""
    shift: Any = np.uint64
    x = (x ^ (x >> shift(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> shift(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = x ^ (x >> shift(31))
    return mixed

"""A pseudo-random permutation that is computed, not stored: O(1) memory, random access.

A Feistel network permutes the integers below a², with a = ceil(sqrt(n)). A value of n or more is permuted again until
it is below n (cycle walking; Black & Rogaway 2002, "Ciphers with arbitrary finite domains"). Since
a² < n + 2·sqrt(n) + 1, few values need a second pass when n is large.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.uint64]

# Four rounds of ideal round functions suffice (Luby & Rackoff 1988); the rest compensate for very small sides.
_ROUNDS = 8


def permute(indices: npt.NDArray[np.int64], n: int, key: str) -> npt.NDArray[np.int64]:
    """Apply the permutation of range(n) that `key` names to each index. A pure function.

    Args:
        indices: any shape, values in [0, n).
        n: 1 … 2**62.
        key: any text; each key gives another permutation.

    Returns:
        int64, the shape of `indices`.
    """
    side = np.uint64(math.isqrt(n - 1) + 1)
    keys = _round_keys(key)
    permuted = _feistel(indices.astype(np.uint64), side, keys)
    while (is_outside := permuted >= n).any():
        permuted[is_outside] = _feistel(permuted[is_outside], side, keys)
    return permuted.astype(np.int64)


def _feistel(x: Indices, side: np.uint64, keys: Indices) -> Indices:
    """A bijection of [0, side²): each round adds a function of one coordinate to the other."""
    left, right = np.divmod(x, side)
    for key in keys:
        left, right = right, (left + _mix(right ^ key) % side) % side
    return left * side + right


def _mix(x: Indices) -> Indices:
    """The finalizer of splitmix64 (Steele et al. 2014): every output bit depends on every input bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=64)
def _round_keys(key: str) -> Indices:
    digest = hashlib.shake_256(key.encode()).digest(8 * _ROUNDS)
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)

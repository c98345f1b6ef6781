"""The parts of a teacher's distribution that a student can learn from, and their size in a cache."""

from __future__ import annotations

from typing import Literal

Targets = Literal["full", "top_k", "sampled", "sampled_renormalized"]
DEFAULT_K = 256
"""Default number of tokens of a teacher's distribution, as in Gemma 3 (2503.19786)."""


def bytes_per_token(targets: Targets, k: int, vocab_size: int) -> int:
    """Size of a teacher's cached outputs in bytes per training token.

    The ids of k tokens take 2 bytes each, or 4 for a vocabulary above 65,536. Their logits take 4 bytes each; `sampled`
    stores one entropy of 4 bytes instead.
    """
    ids = (2 if vocab_size <= 1 << 16 else 4) * k
    return ids + (4 if targets == "sampled" else 4 * k)

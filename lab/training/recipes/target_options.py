"""How much of a teacher's distribution a student learns from, and the bytes that this takes in a cache."""

from __future__ import annotations

from typing import Literal

Targets = Literal["full", "top_k", "sampled", "sampled_renormalized"]
K = 256
"""Tokens of a teacher's distribution that a student learns from, where it isn't the whole; as Gemma 3 (2503.19786)."""


def bytes_a_token(targets: Targets, k: int, vocab_size: int) -> int:
    """What is kept of a teacher's outputs for a token that is trained on.

    The k tokens' ids, in 2 bytes where they fit; beside them each one's logit in 4, or where tokens are drawn by their
    probabilities alone, one entropy in 4.
    """
    ids = (2 if vocab_size <= 1 << 16 else 4) * k
    return ids + (4 if targets == "sampled" else 4 * k)

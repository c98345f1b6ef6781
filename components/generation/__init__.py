"""Generation of text from a decoder: how tokens are drawn, how logits are computed, and when steps are compiled."""

from components.generation.forward import CachedForward, FullForward, NextLogits
from components.generation.prepared import PreparedForward
from components.generation.sampling import Sampling
from components.generation.texts import cached_forward, continuations, generate, generate_batch

__all__ = [
    "CachedForward",
    "FullForward",
    "NextLogits",
    "PreparedForward",
    "Sampling",
    "cached_forward",
    "continuations",
    "generate",
    "generate_batch",
]

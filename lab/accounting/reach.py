"""How far back a model can look: what the reaches of its layers add up to."""

from __future__ import annotations

from components.architecture import Architecture
from lab.accounting.model import count


def reach(architecture: Architecture) -> int | None:
    """Tokens that a prediction can depend on, the last one read included; None where there is no limit.

    A layer in which a token hears of R tokens, its own included, adds R - 1 to what the layers below it have heard of:
    Σ (R - 1) + 1. Attention with a window of W hears of W tokens. Without a window it has no limit, nor has a state.
    """
    total = 1
    for mixer in count(architecture).mixers:
        if mixer.module.reach is None:
            return None
        total += mixer.times * (mixer.module.reach - 1)
    return total

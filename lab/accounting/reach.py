"""How far back a model can look: the sum of its layers' reaches."""

from __future__ import annotations

from components.architecture import Architecture
from lab.accounting.model import count


def reach(architecture: Architecture) -> int | None:
    """The number of tokens that a prediction can depend on, the last one included; None if there is no limit.

    In a layer with reach R, an output depends on R tokens, its own included. Layers add up: Σ (R - 1) + 1. Attention
    with a window of W has a reach of W. Attention without a window and recurrent mixers have no limit.
    """
    total = 1
    for mixer in count(architecture).mixers:
        if mixer.module.reach is None:
            return None
        total += mixer.times * (mixer.module.reach - 1)
    return total

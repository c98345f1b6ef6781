"""How far back a model can look: what its windows add up to over the layers."""

from __future__ import annotations

from components.architecture import Architecture


def reach(architecture: Architecture) -> int | None:
    """Tokens that a prediction can depend on, the last one read included; None where there is no limit.

    A layer with a window of W sees W - 1 tokens before its own, and what it sees has seen as far: Σ (W - 1) + 1. A
    layer without a window has no limit, nor has a state that is carried along.
    """
    total = 1
    for layer in architecture.layers:
        if layer.window is None:
            return None
        total += layer.window - 1
    return total

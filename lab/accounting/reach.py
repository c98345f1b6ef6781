"""How far a whole architecture sees: a layer passes on what it read itself, so windows add up over the layers."""

from __future__ import annotations

from components.architecture import Architecture


def reach(architecture: Architecture) -> int | None:
    """Tokens that the last position can know of through all layers, its own included; None where nothing limits them.

    A window of W lets a layer look W - 1 tokens back, so the sum of those and one. One layer that sees every earlier
    token, or that carries a state along instead of attending, lifts the limit.
    """
    windows = [layer.window for layer in architecture.layers]
    if None in windows:
        return None
    return 1 + sum(window - 1 for window in windows if window is not None)

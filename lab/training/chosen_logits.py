"""What a model says at a few places of a sequence, without the logits of the others."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from components.loss import at


def logits_at(model: nn.Module, tokens: Tensor, places: Tensor) -> Tensor:
    """tokens [B, T], places [B, n] → logits [B, n, V]: what follows the token at each place."""
    own: Any = getattr(model, "logits_at", None)
    return at(model(tokens), places) if own is None else own(tokens, places)

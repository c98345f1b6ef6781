"""The slots of a configuration that belong to attention: only layers that attend have them."""

from __future__ import annotations

from dataclasses import dataclass

from components.attention.heads import Heads
from components.attention.qk_norm import QKNorm
from components.attention.span import Span
from components.position.positions import Position

SLOTS = ("heads", "qk_norm", "span", "position")
"""Their names, in the order of a configuration. Soft-capping is the model's: it caps the final logits, too."""


@dataclass(frozen=True, kw_only=True)
class AttentionSlots:
    """What a configuration says of attention, for one kind of layers. None: nothing.

    Attributes:
        cap: of the attention scores.
    """

    heads: Heads | None
    qk_norm: QKNorm | None
    span: Span | None
    position: Position | None
    cap: float | None

"""What all layers of one forward pass share, and what they hand back beside the residual stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from components.position import Position, Rotation


@dataclass(frozen=True)
class Frame:
    """One forward pass. Made by the decoder, read by every branch, gone afterwards: modules keep nothing of it.

    Attributes:
        rotations: rotary tables by (position, rotary size), for the layers that rotate.
        slopes: ALiBi slopes [n_heads] by (position, n_heads), for the layers that have them.
        documents: [B, T] document ids for attention that stays inside a document, or None.
        kernel: which attention kernel computes the spec.
        losses: terms, already weighted, that layers ask to be added to the training loss, by name; summed over layers.
        first_values: values [B, K, T, D] of the first attention layer, once it has run, where later layers mix them in.
    """

    rotations: dict[tuple[Position, int], Rotation]
    slopes: dict[tuple[Position, int], Tensor]
    documents: Tensor | None
    kernel: str
    losses: dict[str, Tensor] = field(default_factory=dict)
    first_values: list[Tensor] = field(default_factory=list)

    def add_loss(self, name: str, term: Tensor) -> None:
        """Add a scalar term to the training loss under a name such as `moe/load_balance`."""
        self.losses[name] = self.losses[name] + term if name in self.losses else term

"""What all layers of one forward pass share, and what they hand back beside the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from components.attention.heads import Rotate
    from components.cache import LayerCache, Step
    from components.position.positions import Position


class Frame:
    """One forward pass. Made by the decoder, read by every branch, gone afterwards: modules keep nothing of it.

    Not a dataclass: where weights are sharded (torch's fully_shard), each layer would be handed a copy of one, and what
    it adds to that would be lost.

    Attributes:
        rotations: what rotates queries and keys by (position, rotary size), for the layers that rotate.
        slopes: ALiBi slopes [n_heads] by (position, n_heads), for the layers that have them.
        documents: [B, T] document ids for attention that stays inside a document, or None.
        kernel: which attention kernel computes the spec.
        losses: terms, already weighted, that layers ask to be added to the training loss, by name; summed over layers.
        step: which tokens these are, where the text's earlier ones are in a cache; None for a whole text.
        cache: what the layer that runs now keeps of those, with `step`.
        first_values: values [B, K, T, D] of the first attention layer, once it has run, where later layers mix them in.
    """

    def __init__(
        self,
        rotations: dict[tuple[Position, int], Rotate],
        slopes: dict[tuple[Position, int], Tensor],
        documents: Tensor | None,
        kernel: str,
        step: Step | None = None,
    ) -> None:
        self.rotations = rotations
        self.slopes = slopes
        self.documents = documents
        self.kernel = kernel
        self.step = step
        self.cache: LayerCache | None = None
        self.losses: dict[str, Tensor] = {}
        self.first_values: list[Tensor] = []

    def add_loss(self, name: str, term: Tensor) -> None:
        """Add a scalar term to the training loss under a name such as `moe/load_balance`."""
        self.losses[name] = self.losses[name] + term if name in self.losses else term

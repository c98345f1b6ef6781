"""What all layers of one forward pass share, and what they return beside the residual stream."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from components.cache import LayerCache, Step
from components.position.positions import Position, Rotate
from components.stepping.frame import Frame


class ForwardContext:
    """One forward pass. The decoder creates it and every branch reads it; no module stores it.

    Not a dataclass: torch's fully_shard would hand each layer a copy of one, and what a layer adds would be lost.

    Attributes:
        rotations: how to rotate queries and keys, by (position, rotary size), for the mixers that ask for it.
        slopes: ALiBi slopes [n_heads] by (position, n_heads), for the mixers that ask for them.
        documents: [B, T] document ids, where layers must stay inside a document; None for one document a row.
        kernel: the name of the attention kernel.
        losses: weighted terms that layers add to the training loss, by name; summed over layers.
        step: which tokens these are, where a cache holds the earlier ones; None for a whole text.
        cache: with `step`, what the current layer keeps. The layer reads it, and puts what it keeps now in its place.
        first_values: values [B, K, T, D] of the first attention layer, for later layers that mix them in.
        frame: what prepared forms of layers read instead of `step`, `rotations` and `slopes`; None elsewhere.
    """

    def __init__(
        self,
        rotations: Mapping[tuple[Position, int], Rotate],
        slopes: Mapping[tuple[Position, int], Tensor],
        documents: Tensor | None,
        kernel: str,
        step: Step | None = None,
        frame: Frame | None = None,
    ) -> None:
        self.rotations = rotations
        self.slopes = slopes
        self.documents = documents
        self.kernel = kernel
        self.step, self.frame = step, frame
        self.cache = LayerCache({})
        self.losses: dict[str, Tensor] = {}
        self.first_values: list[Tensor] = []

    def add_loss(self, name: str, term: Tensor) -> None:
        """Add a scalar term to the training loss under a name such as `moe/load_balance`."""
        self.losses[name] = self.losses[name] + term if name in self.losses else term

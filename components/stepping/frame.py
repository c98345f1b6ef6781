"""What the layers of one step share: where its token goes in each ring of slots, what it sees there, its rotation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from components.cache import Step
from components.position.rotary_table import RowRotation


class Ring(Protocol):
    """The rings of one number of slots, in one step over one token."""

    @property
    def ages(self) -> Tensor:
        """How many tokens ago each visible slot was written: [S]."""

    @property
    def hidden(self) -> Tensor | None:
        """Which of them hold no token of the text: bool, broadcast over [B, 1, 1, S]; None where all do."""

    def keep(self, buffer: Tensor, new: Tensor) -> None:
        """Write the token's [B, K, 1, size] into its slot of [B, K, slots, size], in place."""

    def visible(self, buffer: Tensor) -> Tensor:
        """[B, K, slots, size] → the slots that the token sees, and more where `hidden` says so: [B · K, S, size]."""


class ExactRing:
    """The ring of an uncompiled step: S are the slots that are in use."""

    def __init__(self, step: Step, slots: int) -> None:
        self._step, self._slots = step, slots
        self._place, self._used = step.at % slots, min(step.at + 1, slots)
        self.hidden = step.hidden(slots)

    @property
    def ages(self) -> Tensor:
        return self._step.ages(self._slots)

    def keep(self, buffer: Tensor, new: Tensor) -> None:
        buffer.narrow(2, self._place, 1).copy_(new)

    def visible(self, buffer: Tensor) -> Tensor:
        return buffer.flatten(0, 1).narrow(1, 0, self._used)


class StaticRing:
    """The ring of a compiled step, whose shapes are the same at many positions.

    Attributes:
        slot: [1] int64, where the token goes.
        hidden: bool [S] or [B, 1, 1, S] of the first S slots, of which those not in use are hidden, too.
        ages: [S]
    """

    def __init__(self, slot: Tensor, hidden: Tensor, ages: Tensor) -> None:
        self.slot, self.hidden, self.ages = slot, hidden, ages

    def keep(self, buffer: Tensor, new: Tensor) -> None:
        buffer.index_copy_(2, self.slot, new.to(buffer.dtype))

    def visible(self, buffer: Tensor) -> Tensor:
        return buffer.flatten(0, 1).narrow(1, 0, self.hidden.shape[-1])


class Frame:
    """Shared by the layers of one step, by the numbers that the preparation gave out.

    Attributes:
        rotations: of the token; None where positions don't rotate.
        rings: one for each number of slots.
    """

    def __init__(self, rotations: Sequence[RowRotation | None], rings: Sequence[Ring]) -> None:
        self.rotations, self.rings = list(rotations), list(rings)

"""What modules say of their own costs, apart from those of the modules that they are made of.

`torch.nn.Linear` needs to say nothing. Another module with a matrix says what it costs, or it is not counted at all
(`lab.accounting.costs`).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class CountsFlops(Protocol):
    """A module that says what its own computation costs."""

    def flops_per_token(self, context: int) -> float:
        """FLOPs of matrix products for the mean token of a context of that length, in a forward pass."""


@runtime_checkable
class HasIdleParameters(Protocol):
    """A module with parameters that a token doesn't meet, such as the experts that are not chosen for it."""

    def idle_parameters(self) -> int:
        """How many."""

"""Protocols with which a module reports its own costs, without those of its submodules.

`torch.nn.Linear` needs to say nothing. Another module with a matrix says what it costs, or it is not counted at all
(`lab.accounting.costs`).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class CountsFlops(Protocol):
    """A module that reports the cost of its own computation."""

    def flops_per_token(self, context: int) -> float:
        """FLOPs of matrix products in a forward pass, per token, averaged over a context of this length."""


@runtime_checkable
class HasIdleParameters(Protocol):
    """A module with parameters that a token doesn't use, such as the experts that aren't chosen for it."""

    def idle_parameters(self) -> int:
        """The number of these parameters."""

"""Functions that torch.compile calls as they stand, and does not look into.

Kernels are fused already: a compiler would only unroll their loops, or copy what they do in place. torch's own
decorator for this imports the compiler, which takes about as long as the rest of torch, also where nothing is compiled;
here whoever compiles says so first, by `shield_from_compiler`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_MADE: list[Opaque[Any, Any]] = []


class Opaque(Generic[P, R]):
    """A function of a module, made at its import and called by `call`.

    Attributes:
        call: the function; once `shield_from_compiler` was called, shielded from compilers.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        self.call = function
        _MADE.append(self)


def shield_from_compiler() -> None:
    """Shield every such function. To be called before anything that holds them is compiled."""
    for each in _MADE:
        each.call = torch.compiler.disable(each.function)  # type: ignore[no-untyped-call]

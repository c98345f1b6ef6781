"""Functions that torch.compile calls as they are, without tracing them: while the graph runs, or while it is traced.

Kernels are fused already: a compiler would only unroll their loops, or copy what they write in place. torch's own
decorator for this imports the compiler, which takes about as long to import as the rest of torch, even where nothing is
compiled. So call `shield_from_compiler` before compiling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_OPAQUE: list[Opaque[Any, Any]] = []


class Opaque(Generic[P, R]):
    """A function of a module, wrapped at import and called by `call`.

    Attributes:
        call: the function; shielded from compilers after `shield_from_compiler`.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        self.call = function
        _OPAQUE.append(self)


def shield_from_compiler() -> None:
    """Shield every opaque function. Call it before anything that uses one is compiled."""
    for opaque in _OPAQUE:
        opaque.call = torch.compiler.disable(opaque.function)  # type: ignore[no-untyped-call]


def constant_in_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that torch.compile calls while it traces, and whose answer it takes for a constant.

    This is all that `torch.compiler.assume_constant_result` does; to call that would import the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function

"""An MLP's last product with its activation as an operator of torch, through which torch.compile keeps a graph whole.

What a compiler makes of the naive activation takes more than twice as long as the fused one, and keeps what is in
between. Outside of a compiled graph the operator is not used: its autograd costs more than a Function's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from components.compile_opaque import constant_in_graphs
from components.fused import down_passes, mlp
from components.fused.mlp import Activation

_LIBRARY = "architecture_lab"
_ARGUMENTS = "str activation, float limit, float alpha, Tensor weight, Tensor? bias, Tensor[] projected"


@constant_in_graphs
def refusal(dtype: torch.dtype) -> str | None:
    """Why a graph on CPU can't have the operator for activations of a dtype; None if it can. Builds the library."""
    reason = mlp.PIECE.planned_refusal("cpu", dtype)
    if reason is None:
        _define()
    return reason


def mlp_down(activation: Activation, weight: Tensor, bias: Tensor | None, projected: Sequence[Tensor]) -> Tensor:
    """As `down.down`, for a graph that is being traced."""
    options = (activation.name, activation.limit, activation.alpha)
    out: Tensor = torch.ops.architecture_lab.mlp_down(*options, weight, bias, list(projected))
    return out


@functools.cache
def _define() -> torch.library.Library:
    """Define the operators, once."""
    library: Any = torch.library.Library(_LIBRARY, "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(f"mlp_down({_ARGUMENTS}) -> Tensor")
    library.define(f"mlp_down_backward(Tensor d_out, {_ARGUMENTS}) -> Tensor[]")
    library.impl("mlp_down", _forward, "CPU")
    library.impl("mlp_down_backward", _backward, "CPU")
    torch.library.register_fake(f"{_LIBRARY}::mlp_down", _shape, lib=library)
    torch.library.register_fake(f"{_LIBRARY}::mlp_down_backward", _gradient_shapes, lib=library)
    torch.library.register_autograd(f"{_LIBRARY}::mlp_down", _gradients, setup_context=_save, lib=library)
    defined: torch.library.Library = library  # which would end with its last reference
    return defined


def _forward(
    name: str, limit: float, alpha: float, weight: Tensor, bias: Tensor | None, projected: list[Tensor]
) -> Tensor:
    return down_passes.forward(Activation(name, limit, alpha), None, weight, bias, projected)


def _shape(
    name: str, limit: float, alpha: float, weight: Tensor, bias: Tensor | None, projected: list[Tensor]
) -> Tensor:
    return projected[0].new_empty(*projected[0].shape[:-1], len(weight))


def _backward(
    d_out: Tensor,
    name: str,
    limit: float,
    alpha: float,
    weight: Tensor,
    bias: Tensor | None,
    projected: list[Tensor],
) -> list[Tensor]:
    gradients = down_passes.backward(Activation(name, limit, alpha), None, weight, bias, projected, d_out)
    return [x for x in gradients if x is not None]


def _gradient_shapes(
    d_out: Tensor,
    name: str,
    limit: float,
    alpha: float,
    weight: Tensor,
    bias: Tensor | None,
    projected: list[Tensor],
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in (weight, bias, *projected) if x is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *ctx.options, weight, bias, projected = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(weight, bias, *projected)


def _gradients(ctx: Any, d_out: Tensor) -> tuple[Any, ...]:
    weight, bias, *projected = ctx.saved_tensors
    d_weight, *others = torch.ops.architecture_lab.mlp_down_backward(d_out, *ctx.options, weight, bias, projected)
    d_bias = others.pop(0) if ctx.has_bias else None
    return None, None, None, d_weight, d_bias, others

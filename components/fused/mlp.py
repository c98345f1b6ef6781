"""The activation of an MLP in one pass: act(gate) · up or act(up), and its gradients together with its value."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.fused.piece import LIBRARY, FusedPiece, is_bf16, pointer, threads

PIECE = FusedPiece("mlp", in_graphs=True)

ACTIVATION_NUMBERS = {
    name: number
    for number, name in enumerate(
        ("identity", "relu", "relu2", "sigmoid", "silu", "gelu_tanh", "gelu", "clamped_swish")
    )
}
"""Activations, in the order of `with_activation` in cpp/mlp.cpp."""


@dataclass(frozen=True)
class Activation:
    """An activation that the fused form knows: a name among ACTIVATION_NUMBERS, and the options of clamped_swish.

    With `clamped_swish` the factor beside the gate is clamped up + 1.
    """

    name: str
    limit: float = 0.0
    alpha: float = 0.0


Inner = Callable[..., Tensor]


def activate(activation: Activation | None, inner: Inner, projected: Sequence[Tensor]) -> Tensor:
    """What joins the inputs' projections, each [..., d_ff]: by the fused form, or `inner`, which is the naive one."""
    if activation is None or not PIECE.takes(*projected) or len({x.dtype for x in projected}) > 1:
        return inner(*projected)
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in projected)):
        return value(activation, projected)
    joined: Tensor = _Activate.apply(activation, inner, *projected)  # type: ignore[no-untyped-call]
    return joined


class _Activate(torch.autograd.Function):
    """Saves the projections alone."""

    @staticmethod
    def forward(ctx: Any, activation: Activation, inner: Inner, *projected: Tensor) -> Tensor:
        ctx.activation, ctx.inner = activation, inner
        ctx.save_for_backward(*projected)
        return value(activation, projected)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        projected = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return None, None, *torch.autograd.grad(ctx.inner(*projected), projected, d_out, create_graph=True)
        gradients = [torch.empty(x.shape, dtype=x.dtype) for x in projected]
        gradient_(ctx.activation, projected, d_out, gradients, None)
        return None, None, *gradients


def value(activation: Activation, projected: Sequence[Tensor]) -> Tensor:
    """act(gate) · up, or act(up) of one projection; each [..., d_ff] of the same dtype, fp32 or bf16."""
    gate, *rest = (x.contiguous() for x in projected)
    out = torch.empty(gate.shape, dtype=gate.dtype)
    _function("mlp_forward", 3)(
        *_options(activation, gate), *map(pointer, (gate, rest[0] if rest else None, out)), *_size(gate)
    )
    return out


def gradient_(
    activation: Activation,
    projected: Sequence[Tensor],
    d_out: Tensor,
    gradients: Sequence[Tensor],
    out: Tensor | None,
) -> None:
    """Write the gradients of the projections into contiguous `gradients`, and the value into `out` if it is given."""
    gate, *rest = (x.contiguous() for x in projected)
    d_out = d_out.to(gate.dtype).contiguous()
    up, d_up = (rest[0], gradients[1]) if rest else (None, None)
    _function("mlp_backward", 6)(
        *_options(activation, gate), *map(pointer, (gate, up, d_out, gradients[0], d_up, out)), *_size(gate)
    )


def _options(activation: Activation, gate: Tensor) -> tuple[int, float, float, bool]:
    return ACTIVATION_NUMBERS[activation.name], activation.limit, activation.alpha, is_bf16(gate)


def _size(gate: Tensor) -> tuple[int, int]:
    return gate.numel(), threads(gate.numel())


def _function(name: str, pointers: int) -> Callable[..., None]:
    function = PIECE.functions.get(name)
    if function is None:
        function = getattr(LIBRARY.load(), name)
        whole, real = ctypes.c_int64, ctypes.c_float
        function.argtypes = [whole, real, real, whole, *[ctypes.c_void_p] * pointers, whole, whole]
        function.restype = None
        PIECE.functions[name] = function
    return function

"""An MLP's last product with its activation: down(act(gate) · up), whose backward pass recomputes what is in between.

A gated MLP then keeps half the memory. It goes through ROWS rows at a time, so that the values in between never exist
for all rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.fused import mlp
from components.fused.mlp import Activation, Inner

ROWS = 512
"""Measured to be as fast as all rows at once, in little memory."""


def recomputes(activation: Activation | None, projected: Sequence[Tensor]) -> bool:
    """Whether training goes through `down`: on a CPU, where it is faster. A compiler does the same by itself.

    The naive form doesn't under autocast, which casts for itself.
    """
    device = projected[0].device.type
    if device != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return not torch.is_autocast_enabled(device) or _is_fused(activation, projected)


def down(
    activation: Activation | None, inner: Inner, weight: Tensor, bias: Tensor | None, projected: Sequence[Tensor]
) -> Tensor:
    """F.linear(inner(*projected), weight, bias), in the dtype of the projections.

    Args:
        activation: the fused form of `inner`, or None.
        inner: what joins the projections, each [..., d_ff].
        weight: [d_model, d_ff]; of another dtype under autocast.
    """
    output: Tensor = _Down.apply(activation, inner, weight, bias, *projected)  # type: ignore[no-untyped-call]
    return output


def _is_fused(activation: Activation | None, projected: Sequence[Tensor]) -> bool:
    return activation is not None and mlp.PIECE.takes(*projected) and len({x.dtype for x in projected}) == 1


class _Down(torch.autograd.Function):
    """Saves the weight and the projections."""

    @staticmethod
    def forward(
        ctx: Any, activation: Activation | None, inner: Inner, weight: Tensor, bias: Tensor | None, *projected: Tensor
    ) -> Tensor:
        ctx.activation = activation if _is_fused(activation, projected) else None
        ctx.inner, ctx.bias_dtype = inner, None if bias is None else bias.dtype
        ctx.save_for_backward(weight, *projected)
        dtype = projected[0].dtype
        cast = weight.to(dtype)
        out = projected[0].new_empty(*projected[0].shape[:-1], len(weight))
        for out_rows, *rows in zip(*map(_in_rows, (out, *projected)), strict=True):
            hidden = inner(*rows) if ctx.activation is None else mlp.value(ctx.activation, rows)
            torch.mm(hidden, cast.mT, out=out_rows)
        return out if bias is None else out.add_(bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        weight, *projected = ctx.saved_tensors
        d_bias = None
        if ctx.bias_dtype is not None:
            d_bias = d_out.reshape(-1, len(weight)).sum(0, dtype=ctx.bias_dtype)
        if torch.is_grad_enabled():  # create_graph=True: what the gradients are made of has to be differentiable
            leaves = (weight, *projected)
            joined = F.linear(ctx.inner(*projected), weight.to(projected[0].dtype))
            d_weight, *d_projected = torch.autograd.grad(joined, leaves, d_out, create_graph=True)
            return None, None, d_weight, d_bias, *d_projected
        cast, total = weight.to(projected[0].dtype), _Total(weight, projected[0].dtype)
        d_projected = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in projected]
        for d_rows, *both in zip(*map(_in_rows, (d_out, *projected, *d_projected)), strict=True):
            rows, places = both[: len(projected)], both[len(projected) :]
            total.add_product(d_rows, _gradients(ctx, rows, d_rows @ cast, places))
        return None, None, total.value.to(weight.dtype), d_bias, *d_projected


def _gradients(ctx: Any, rows: list[Tensor], d_hidden: Tensor, places: list[Tensor]) -> Tensor:
    """The rows' hidden values; their projections' gradients are written into `places`."""
    if ctx.activation is not None:
        hidden = torch.empty_like(d_hidden)
        mlp.gradient_(ctx.activation, rows, d_hidden, places, hidden)
        return hidden
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in rows]
        joined = ctx.inner(*leaves)
    for place, gradient in zip(places, torch.autograd.grad(joined, leaves, d_hidden), strict=True):
        place.copy_(gradient)
    return joined.detach()  # type: ignore[no-any-return]


class _Total:
    """The gradient of a weight as a sum of products: in fp32 at least, whatever the products are in."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._exact = torch.promote_types(dtype, torch.float32)
        self._is_exact = dtype == self._exact
        self.value = torch.zeros_like(weight, dtype=self._exact)

    def add_product(self, d_rows: Tensor, hidden: Tensor) -> None:
        """Add d_rowsᵀ · hidden."""
        if self._is_exact:  # not addmm_, which torch's FLOP counter does not count
            torch.addmm(self.value, d_rows.mT, hidden, out=self.value)
        else:
            self.value.add_(d_rows.mT @ hidden)


def _in_rows(x: Tensor) -> tuple[Tensor, ...]:
    """x [..., D] as pieces of [ROWS, D] at most, views where x is contiguous."""
    return torch.split(x.reshape(-1, x.shape[-1]), ROWS)

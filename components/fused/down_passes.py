"""The forward and backward passes of an MLP's last product with its activation, ROWS rows at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.fused import mlp
from components.fused.mlp import Activation, Inner
from components.onednn import multiply

ROWS = 512
"""Measured to be as fast as all rows at once, in little memory."""


def forward(
    activation: Activation | None,
    inner: Inner | None,
    weight: Tensor,
    bias: Tensor | None,
    projected: Sequence[Tensor],
) -> Tensor:
    """inner(*projected) · weightᵀ + bias, in the dtype of the projections.

    Args:
        activation: the fused form, or None to use `inner`.
        weight: [d_model, d_ff] in that dtype, or fp32.
        projected: each [..., d_ff].
    """
    dtype = projected[0].dtype
    cast = weight.to(dtype)
    out = projected[0].new_empty(*projected[0].shape[:-1], len(weight))
    for out_rows, *rows in zip(*map(_in_rows, (out, *projected)), strict=True):
        out_rows.copy_(multiply(_value(activation, inner, rows), cast))
    return out if bias is None else out.add_(bias.to(dtype))


def backward(
    activation: Activation | None,
    inner: Inner | None,
    weight: Tensor,
    bias: Tensor | None,
    projected: Sequence[Tensor],
    d_out: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients of the weight, of the bias (None without one), and of each projection."""
    d_bias = None if bias is None else d_out.reshape(-1, len(weight)).sum(0, dtype=bias.dtype)
    cast, total = weight.to(projected[0].dtype), _Total(weight, projected[0].dtype)
    d_projected = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in projected]
    for d_rows, *both in zip(*map(_in_rows, (d_out, *projected, *d_projected)), strict=True):
        rows, places = both[: len(projected)], both[len(projected) :]
        total.add_product(d_rows, _gradients(activation, inner, rows, multiply(d_rows, cast.mT), places))
    return total.value.to(weight.dtype), d_bias, *d_projected


def _value(activation: Activation | None, inner: Inner | None, rows: Sequence[Tensor]) -> Tensor:
    if activation is not None:
        return mlp.value(activation, rows)
    assert inner is not None
    return inner(*rows)


def _gradients(
    activation: Activation | None,
    inner: Inner | None,
    rows: Sequence[Tensor],
    d_hidden: Tensor,
    places: Sequence[Tensor],
) -> Tensor:
    """The rows' hidden values; their projections' gradients are written into `places`."""
    if activation is not None:
        hidden = torch.empty_like(d_hidden)
        mlp.gradient_(activation, rows, d_hidden, places, hidden)
        return hidden
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in rows]
        joined = _value(None, inner, leaves)
    for place, gradient in zip(places, torch.autograd.grad(joined, leaves, d_hidden), strict=True):
        place.copy_(gradient)
    return joined.detach()


class _Total:
    """The gradient of a weight as a sum of products: in fp32 at least, whatever the products are in."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        exact = torch.promote_types(dtype, torch.float32)
        self._is_exact = dtype == exact
        self.value = torch.zeros_like(weight, dtype=exact)

    def add_product(self, d_rows: Tensor, hidden: Tensor) -> None:
        """Add d_rowsᵀ · hidden."""
        if self._is_exact:  # not addmm_, which torch's FLOP counter does not count
            torch.addmm(self.value, d_rows.mT, hidden, out=self.value)
        else:
            self.value.add_(d_rows.mT @ hidden)


def _in_rows(x: Tensor) -> tuple[Tensor, ...]:
    """x [..., D] as pieces of [ROWS, D] at most, views where x is contiguous."""
    return torch.split(x.reshape(-1, x.shape[-1]), ROWS)

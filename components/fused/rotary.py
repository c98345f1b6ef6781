"""Rotary positions in one pass: pairs of values of queries or keys, turned by tables of their position.

The tables stay in fp32 and each value is rounded once, also where activations are bf16.
"""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

from components.fused.piece import FusedPiece, dense_rows, is_bf16, pointer, threads

PIECE = FusedPiece("rotary")

_CALL = struct.Struct("4q5q6q3qd")


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """x [B, heads, T, size] with its first 2 · pairs values turned, contiguous, in x's dtype. For what `PIECE` takes.

    Args:
        x: of any strides, fp32 or bf16.
        cos, sin: [T, pairs] fp32, without gradients.
        interleaved: whether value 2i forms a pair with 2i + 1; else value i with i + pairs.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _turned(x, cos, sin, torch.empty(x.shape, dtype=x.dtype), interleaved, 1.0)
    turned: Tensor = _Rotate.apply(x, cos, sin, interleaved)  # type: ignore[no-untyped-call]
    return turned


class _Rotate(torch.autograd.Function):
    """A rotation is linear: its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        # The gradient is laid out as x, so that it needs no copy where x is a view of a projection.
        ctx.order = sorted(range(3), key=x.stride, reverse=True)
        return _turned(x, cos, sin, torch.empty(x.shape, dtype=x.dtype), interleaved, 1.0)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the rotation back is to be recorded
            return rotate(d_out, cos, -sin, interleaved=ctx.interleaved), None, None, None
        order = ctx.order
        laid_out = torch.empty([d_out.shape[i] for i in order] + [d_out.shape[3]], dtype=d_out.dtype)
        d_x = laid_out.permute(*(order.index(i) for i in range(3)), 3)
        return _turned(d_out, cos, sin, d_x, ctx.interleaved, -1.0), None, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, interleaved: bool, direction: float) -> Tensor:
    """Write the rotation into `out`. The order of fields is RotaryCall's in cpp/rotary.cpp."""
    x, cos, sin = dense_rows(x), cos.contiguous(), sin.contiguous()
    PIECE.function("rotary")(
        _CALL.pack(
            *map(pointer, (x, out, cos, sin)),
            *(*x.shape, cos.shape[-1]),
            *(*x.stride()[:3], *out.stride()[:3]),
            *(interleaved, is_bf16(x), threads(x.numel())),
            direction,
        )
    )
    return out

"""RMSNorm in one pass over the rows, with a residual added to its output, forward and backward.

    y = x / rms(x) · gain (+ residual)

It reads x in the dtype of the activations and writes y in the dtype that is asked for; sums are in fp32. The gradient
adds that of the residual stream to its own, so that the stream's gradient is written once a norm.
"""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

from components.fused.piece import FusedPiece, dense_rows, is_bf16, pointer, threads
from components.fused.rms import RMS, naive_rms_norm

PIECE = FusedPiece("norm")

_CALL = struct.Struct("9q21q7qd")
_NO_STRIDES = (0, 0, 0)


def rms_norm(x: Tensor, weight: Tensor, rms: RMS, residual: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The norm of x, plus the residual if there is one, in `dtype`. For what `PIECE` takes.

    Args:
        x: [..., D] fp32 or bf16, of any strides.
        weight: [D]
        residual: as x, fp32 or bf16.
        dtype: fp32 or bf16.
    """
    if not torch.is_grad_enabled():
        return _forward(x, weight, rms, residual, dtype)[0]
    y: Tensor = _RMSNorm.apply(x, weight, rms, residual, dtype)  # type: ignore[no-untyped-call]
    return y


def rms_norm_and_stream(x: Tensor, weight: Tensor, rms: RMS, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The norm of x in `dtype`, and x itself, whose gradient is then added to the norm's in the same pass."""
    if not torch.is_grad_enabled():
        return _forward(x, weight, rms, None, dtype)[0], x
    both: tuple[Tensor, Tensor] = _NormAndStream.apply(x, weight, rms, dtype)  # type: ignore[no-untyped-call]
    return both


_ADDRESSES, _REST = struct.Struct("9q"), struct.Struct("21q7qd")


class RowNorm:
    """`rms_norm` of contiguous fp32 rows without gradients, in the fewest steps: its call is packed once.

    Args:
        weight: [D] fp32, which is read at every call.
        rows: their number.
    """

    def __init__(self, weight: Tensor, rms: RMS, rows: int) -> None:
        dim = weight.shape[0]
        by_row, absent = (0, 0, dim), _NO_STRIDES
        self._numbers = rows * dim
        self._weight, self._inverse = weight.detach().contiguous(), torch.empty(rows)
        self._function = PIECE.function("norm_forward")
        self._gain, self._inverses = self._weight.data_ptr(), self._inverse.data_ptr()
        self._rest = _REST.pack(
            *(1, 1, rows, *by_row, *by_row, *by_row, *absent, *absent, *absent),
            *(dim, False, False, False, rms.zero_centered, rms.round_first, threads(rows * dim), rms.eps),
        )

    def takes(self, x: Tensor) -> bool:
        """Whether x has `rows` contiguous rows of D in fp32."""
        return x.dtype == torch.float32 and x.numel() == self._numbers and x.is_contiguous()

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The norm of x, plus the residual if there is one: of tensors that it takes."""
        out = torch.empty_like(x)
        of_residual = 0 if residual is None else residual.data_ptr()
        addresses = (x.data_ptr(), of_residual, 0, 0, out.data_ptr(), 0, self._inverses, self._gain, 0)
        self._function(_ADDRESSES.pack(*addresses) + self._rest)
        return out


class _RMSNorm(torch.autograd.Function):
    """Saves x, the weight and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rms: RMS, residual: Tensor | None, dtype: torch.dtype) -> Tensor:
        y, inverse = _forward(x, weight, rms, residual, dtype)
        ctx.save_for_backward(x, weight, inverse)
        ctx.rms, ctx.dtype, ctx.residual_dtype = rms, dtype, None if residual is None else residual.dtype
        return y

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        d_residual = d_y.to(ctx.residual_dtype) if ctx.needs_input_grad[3] else None
        if torch.is_grad_enabled():
            return *_second_order(x, weight, ctx.rms, d_y, ctx.dtype), None, d_residual, None
        d_x, d_weight = _backward(x, weight, inverse, ctx.rms, d_y, None, ctx.needs_input_grad)
        return d_x, d_weight, None, d_residual, None


class _NormAndStream(torch.autograd.Function):
    """As `_RMSNorm`, with x handed on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rms: RMS, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        y, inverse = _forward(x, weight, rms, None, dtype)
        ctx.save_for_backward(x, weight, inverse)
        ctx.rms, ctx.dtype = rms, dtype
        ctx.set_materialize_grads(False)
        return y, x.view_as(x)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor | None, d_stream: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        if d_y is None:
            return d_stream, None, None, None
        if torch.is_grad_enabled():
            d_x, d_weight = _second_order(x, weight, ctx.rms, d_y, ctx.dtype)
            return d_x if d_stream is None else d_x + d_stream.to(d_x.dtype), d_weight, None, None
        return *_backward(x, weight, inverse, ctx.rms, d_y, d_stream, ctx.needs_input_grad), None, None


def _second_order(x: Tensor, weight: Tensor, rms: RMS, d_y: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The gradients as differentiable tensors, where create_graph=True asks for them."""
    y = naive_rms_norm(x, weight, rms).to(dtype)
    d_x, d_weight = torch.autograd.grad(y, (x, weight), d_y, create_graph=True)
    return d_x, d_weight


def _forward(x: Tensor, weight: Tensor, rms: RMS, residual: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x, residual = _rows(x), None if residual is None else _rows(residual)
    out = torch.empty_like(x, dtype=dtype)
    out = out if out.stride(-1) == 1 else torch.empty(x.shape, dtype=dtype)
    inverse = torch.empty(x.shape[:-1], dtype=torch.float32)
    _call("norm_forward", rms, weight, out.dtype, x=x, residual=residual, out=out, inverse=inverse)
    return out, inverse


def _backward(
    x: Tensor,
    weight: Tensor,
    inverse: Tensor,
    rms: RMS,
    d_y: Tensor,
    d_stream: Tensor | None,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None]:
    x, d_y = _rows(x), _rows(d_y)
    d_stream = None if d_stream is None else _rows(d_stream.to(x.dtype))
    d_x = torch.empty_like(x) if needed[0] else None
    d_x = d_x if d_x is None or d_x.stride(-1) == 1 else torch.empty(x.shape, dtype=x.dtype)
    d_gain = torch.empty(weight.shape, dtype=torch.float32) if needed[1] else None
    _call(
        *("norm_backward", rms, weight, d_y.dtype),
        x=x,
        d_out=d_y,
        d_stream=d_stream,
        d_x=d_x,
        inverse=inverse,
        d_gain=d_gain,
    )
    return d_x, None if d_gain is None else d_gain.to(weight.dtype)


def _call(function: str, rms: RMS, weight: Tensor, out_dtype: torch.dtype, **tensors: Tensor | None) -> None:
    """Call the library. Tensors of rows have x's shape; the order of fields is NormCall's in cpp/norm.cpp."""
    x, residual = tensors["x"], tensors.get("residual")
    assert x is not None
    gain = weight.float().contiguous()
    addresses = (pointer(tensors.get(name)) for name in ("x", "residual", "d_out", "d_stream", "out", "d_x", "inverse"))
    rows = [tensors.get(name) for name in ("x", "residual", "out", "d_out", "d_stream", "d_x")]
    sizes, strides = _outer(x.shape, rows)
    PIECE.function(function)(
        _CALL.pack(
            *addresses,
            *(gain.data_ptr(), pointer(tensors.get("d_gain"))),
            *sizes,
            *(stride for of_one in strides for stride in of_one),
            *(x.shape[-1], is_bf16(x), residual is not None and is_bf16(residual), out_dtype == torch.bfloat16),
            *(rms.zero_centered, rms.round_first, threads(x.numel())),
            rms.eps,
        )
    )


def _rows(x: Tensor) -> Tensor:
    """x, or a copy whose rows are contiguous and have no more than three outer dimensions."""
    return x.contiguous() if x.dim() > 4 else dense_rows(x)


def _outer(shape: torch.Size, rows: list[Tensor | None]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Three outer sizes, and the strides of each tensor for them. Contiguous dimensions are joined."""
    sizes = list(shape[:-1]) or [1]
    strides = [list(x.stride()[:-1]) or [0] for x in rows if x is not None]
    at = len(sizes) - 1
    while at > 0:
        if all(of_one[at - 1] == sizes[at] * of_one[at] or sizes[at - 1] == 1 for of_one in strides):
            sizes[at - 1 : at + 1] = [sizes[at - 1] * sizes[at]]
            for of_one in strides:
                del of_one[at - 1]
        at -= 1
    padding = [0] * (3 - len(sizes))
    of_all = iter(strides)
    return (
        (*[1] * len(padding), *sizes),
        [(*padding, *next(of_all)) if x is not None else _NO_STRIDES for x in rows],
    )

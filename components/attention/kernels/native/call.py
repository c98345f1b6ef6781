"""How a call reaches the C++ library: pointers, strides and sizes in one structure of C."""

from __future__ import annotations

import ctypes
import functools
import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from components.attention.kernels.native.library import LIBRARY

_FIELDS = struct.Struct("14q 24q q 8q 2q 2q 2d")  # `Call` in cpp/call.hpp
_NO_STRIDES = (0, 0, 0)

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Of q, k, v, the slopes and the sinks."""


@dataclass(frozen=True)
class Numbers:
    """What a call has beside its tensors: the spec, and the position of the first query."""

    scale: float
    softcap: float | None
    causal: bool
    window: int | None
    offset: int


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    sinks: Tensor | None,
    documents: Tensor | None,
    numbers: Numbers,
    lse: Tensor | None,
) -> Tensor:
    """The output [B, H, T, Dv], and into `lse`, if it is given, what the backward pass needs of each row.

    Args:
        q, k, v: fp32 or bf16, in any layout whose last dimension is contiguous.
        slopes, sinks: fp32 [H], contiguous.
        documents: int64 [B, S], in rows that are contiguous.
        lse: fp32 of `lse_size` numbers.
    """
    out = _like_projection(q, v.shape[3])
    of_output = (_pointer(slopes), _pointer(sinks), _pointer(documents), 0, 0, 0, 0, 0, 0)
    strides = (*_NO_STRIDES, *_NO_STRIDES, *_NO_STRIDES, *_NO_STRIDES)
    _run(_functions().attention_forward, q, k, v, out, lse, of_output, strides, documents, numbers)
    return out


def backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    sinks: Tensor | None,
    documents: Tensor | None,
    out: Tensor,
    lse: Tensor,
    numbers: Numbers,
    wanted: tuple[bool, ...],
) -> Gradients:
    """The gradients that are wanted of q, k, v, slopes and sinks; None for the others.

    Args:
        d_out: as `out`, in any layout.
        out, lse: of the forward pass; the others are what it was given.
    """
    d_out = contiguous_rows(d_out)
    d_q, d_k, d_v = (
        _like_projection(x, x.shape[3]) if asked else None for x, asked in zip((q, k, v), wanted, strict=False)
    )
    d_slopes, d_sinks = (
        torch.empty_like(x) if asked and x is not None else None
        for x, asked in zip((slopes, sinks), wanted[3:], strict=True)
    )
    pointers = tuple(map(_pointer, (slopes, sinks, documents, d_out, d_q, d_k, d_v, d_slopes, d_sinks)))
    strides = (*_strides(d_out), *_strides(d_q), *_strides(d_k), *_strides(d_v))
    _run(_functions().attention_backward, q, k, v, out, lse, pointers, strides, documents, numbers)
    return d_q, d_k, d_v, d_slopes, d_sinks


def lse_size(q: Tensor) -> tuple[int, int, int]:
    """One number a query and head."""
    return q.shape[0], q.shape[1], q.shape[2]


def contiguous_rows(x: Tensor) -> Tensor:
    """x in a layout that the library reads: only the last dimension has to be contiguous."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


@functools.cache
def _functions() -> ctypes.CDLL:
    functions = LIBRARY.load()
    if functions.attention_call_size() != _FIELDS.size:
        raise AssertionError("call.py and call.hpp differ in the fields of a call")
    return functions


def _run(
    function: object,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor | None,
    pointers: tuple[int, ...],
    strides: tuple[int, ...],
    documents: Tensor | None,
    numbers: Numbers,
) -> None:
    B, H, T, D = q.shape
    _, K, S, E = v.shape
    fields = _FIELDS.pack(
        *(q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), _pointer(lse), *pointers),
        *(*_strides(q), *_strides(k), *_strides(v), *_strides(out), *strides),
        0 if documents is None else documents.stride(0),
        *(B, H, K, T, S, D, E, numbers.offset),
        *(numbers.causal, numbers.window or 0, q.dtype == torch.bfloat16, torch.get_num_threads()),
        *(numbers.scale, numbers.softcap or 0.0),
    )
    if function(fields):  # type: ignore[operator]
        raise MemoryError(f"attention kernel 'native': no memory left for {B} × {H} heads, {T} queries, {S} keys")


def _like_projection(x: Tensor, size: int) -> Tensor:
    """An empty tensor [B, H, T, size] for x [B, H, T, …], in the layout in which projections read heads."""
    B, H, T, _ = x.shape
    return x.new_empty(B, T, H, size).transpose(1, 2)


def _pointer(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _strides(x: Tensor | None) -> tuple[int, ...]:
    return _NO_STRIDES if x is None else x.stride()[:3]

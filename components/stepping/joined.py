"""Matrix products over few rows: the weights of several projections as one matrix, laid out for their number.

A step of generation reads each weight once and does little with it, so its time is that of reading. Measured on Zen 4,
one thread, all products of the model of benchmarks/decoding.py, milliseconds: 1 row fp32 2.8 by `F.linear`, 2.5 packed,
1.9 transposed; 16 rows 5.7, 3.2, 4.9; 1 row bf16 1.9, 0.7, 1.5.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_PACK = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_PACKED_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Product(Protocol):
    """x [..., d_in] → weight · x + bias [..., d_out]."""

    def __call__(self, x: Tensor) -> Tensor: ...


class Plain:
    """weight [d_out, d_in] as it is."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Transposed(Plain):
    """The same with the weight stored by columns: BLAS then reads it from start to end, whatever the number of rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.mT.contiguous().mT, bias)


class Packed:
    """The weight in oneDNN's own layout for a number of rows. No compiler can trace it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        assert _PACK is not None
        self.weight, self.bias = _PACK(weight.contiguous(), rows), bias

    def __call__(self, x: Tensor) -> Tensor:
        assert _PACKED_LINEAR is not None
        y: Tensor = _PACKED_LINEAR(x, self.weight, self.bias, "none", [], "")
        return y


def product(weight: Tensor, bias: Tensor | None, rows: int, *, traced: bool) -> Product:
    """The fastest product of this weight [d_out, d_in] with `rows` rows of its dtype, on its device.

    Args:
        traced: for a compiler, or under autocast, which both know the plain operations alone.
    """
    if weight.device.type != "cpu":
        return Plain(weight, bias)
    if not traced and _packs(weight.dtype) and (rows > 1 or weight.dtype == torch.bfloat16):
        return Packed(weight, bias, rows)
    return Transposed(weight, bias)


def _packs(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN's packed products of a dtype, and may use them."""
    if _PACK is None or not torch._C._has_mkldnn or not torch.backends.mkldnn.enabled:
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32

"""The matrix products of projections by oneDNN, where it is faster than torch's own.

In fp32, torch multiplies by MKL, which takes a slower path on processors that aren't Intel's. On a Zen 4, oneDNN takes
five sixths of MKL's time for the products of a forward pass and for the gradient of its input. The gradient of the
weight is as fast by MKL.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from components.native.cpu import features

MIN_MULTIPLICATIONS = 1 << 26
"""Rows · d_in · d_out from which oneDNN's faster arithmetic outweighs its longer call."""

_LIBRARY = torch.library.Library("lab_onednn", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("rows_by_weight(Tensor x, Tensor weight) -> Tensor")  # type: ignore[no-untyped-call]


@torch.library.impl(_LIBRARY, "rows_by_weight", "CPU")
def _rows_by_weight(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, d_in], weight [d_out, d_in] → [N, d_out]. The weight may have any strides."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")  # type: ignore[no-any-return]


@torch.library.register_fake("lab_onednn::rows_by_weight")  # type: ignore[untyped-decorator]
def _rows_by_weight_shape(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@register_flop_formula(torch.ops.lab_onednn.rows_by_weight)
def _rows_by_weight_flops(x_shape: list[int], weight_shape: list[int], *_: Any, **__: Any) -> int:
    """FLOPs of `rows_by_weight` for torch's FlopCounterMode, which passes shapes: two a multiplication."""
    return 2 * x_shape[0] * x_shape[1] * weight_shape[0]


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies fp32 matrices faster than MKL here. By the processor, never by a measurement, which
    would let two attempts of a run differ in their last bits."""
    fields = features()
    is_amd_with_avx512 = fields.get("vendor_id") == "AuthenticAMD" and "avx512f" in fields.get("flags", "").split()
    return is_amd_with_avx512 and torch._C._has_mkldnn and torch._C.has_mkl


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ by oneDNN, without gradients: x [N, d_in], weight [d_out, d_in] fp32 on a CPU → [N, d_out]."""
    y: Tensor = torch.ops.lab_onednn.rows_by_weight(x, weight)
    return y


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., d_in], weight [d_out, d_in], bias [d_out] or None → x · weightᵀ + bias, [..., d_out]."""
    if not _suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    y: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight)  # type: ignore[no-untyped-call]
    y = y.view(*x.shape[:-1], len(weight))
    return y if bias is None else y + bias


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, d_in] · weightᵀ [d_in, d_out] without gradients, by the products that `project` would take."""
    return product(x, weight) if onednn_is_faster() and _suits_onednn(x, weight) else x @ weight.mT


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    is_fp32_on_cpu = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return is_fp32_on_cpu and not torch.is_autocast_enabled("cpu") and x.numel() * len(weight) >= MIN_MULTIPLICATIONS


class _Product(torch.autograd.Function):
    """x · weightᵀ, [N, d_in] by [d_out, d_in]: by oneDNN except for the gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_x = _Product.apply(d_y, weight.mT)  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            d_weight = d_y.mT @ x
        return d_x, d_weight

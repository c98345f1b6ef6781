"""An MLP's last product with its activation: down(act(gate) · up), whose backward pass recomputes what is in between.

A gated MLP then keeps half the memory. It goes through some rows at a time, so that the values in between never exist
for all rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.fused import down_passes, mlp, operators
from components.fused.mlp import Activation, Inner


def recomputes(activation: Activation | None, projected: Sequence[Tensor]) -> bool:
    """Whether a pass goes through `down`: on a CPU, where it is faster, in training and in compiled graphs.

    The naive form doesn't under autocast, which casts for itself, nor in graphs, where the compiler does the same.
    """
    device, dtype = projected[0].device.type, projected[0].dtype
    if device != "cpu":
        return False
    if torch.compiler.is_compiling():
        return activation is not None and len({x.dtype for x in projected}) == 1 and operators.refusal(dtype) is None
    if not torch.is_grad_enabled():
        return False
    return not torch.is_autocast_enabled(device) or _is_fused(activation, projected)


def down(
    activation: Activation | None, inner: Inner, weight: Tensor, bias: Tensor | None, projected: Sequence[Tensor]
) -> Tensor:
    """F.linear(inner(*projected), weight, bias), in the dtype of the projections. For passes that `recomputes` takes.

    Args:
        activation: the fused form of `inner`, or None.
        inner: what joins the projections, each [..., d_ff].
        weight: [d_model, d_ff]; of another dtype under autocast.
    """
    if torch.compiler.is_compiling():
        assert activation is not None
        return operators.mlp_down(activation, weight, bias, projected)
    output: Tensor = _Down.apply(activation, inner, weight, bias, *projected)  # type: ignore[no-untyped-call]
    return output


def _is_fused(activation: Activation | None, projected: Sequence[Tensor]) -> bool:
    return activation is not None and mlp.PIECE.takes(*projected) and len({x.dtype for x in projected}) == 1


class _Down(torch.autograd.Function):
    """Saves the weight, the bias and the projections."""

    @staticmethod
    def forward(
        ctx: Any, activation: Activation | None, inner: Inner, weight: Tensor, bias: Tensor | None, *projected: Tensor
    ) -> Tensor:
        ctx.activation = activation if _is_fused(activation, projected) else None
        ctx.inner = inner
        ctx.save_for_backward(weight, bias, *projected)
        return down_passes.forward(ctx.activation, inner, weight, bias, projected)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, *projected = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: what the gradients are made of has to be differentiable
            joined = F.linear(ctx.inner(*projected), weight.to(projected[0].dtype))
            leaves = (weight, *projected)
            d_weight, *d_projected = torch.autograd.grad(joined, leaves, d_out, create_graph=True)
            d_bias = None if bias is None else d_out.reshape(-1, len(weight)).sum(0).to(bias.dtype)
            return None, None, d_weight, d_bias, *d_projected
        return None, None, *down_passes.backward(ctx.activation, ctx.inner, weight, bias, projected, d_out)

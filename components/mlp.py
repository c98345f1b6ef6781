"""The position-wise network of a block, plain or gated; `components.moe` makes mixtures of experts of it.

plain: down(act(up(x))), two matrices.
gated: down(act(gate(x)) · up(x)), three (Shazeer 2020, 2002.05202); at equal parameters its d_ff is 2/3 of a plain one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.forward_context import ForwardContext
from components.initialization import Projection
from components.registry import Component, register


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (Hendrycks & Gimpel 2016, 1606.08415)."""
    return F.gelu(x, approximate="tanh")


def relu2(x: Tensor) -> Tensor:
    """relu(x)² (So et al. 2021, 2109.08668)."""
    return F.relu(x).square()


def identity(x: Tensor) -> Tensor:
    """x itself."""
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": relu2,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "identity": identity,
}


ROWS = 512
"""Rows at a time in the recomputing down-projection. Measured to be as fast as all rows at once, in little memory."""


class MLP(Component, kind="mlp"):
    """What a block computes at each position alone."""

    def build(self, d_model: int) -> nn.Module:
        """A module: forward(x [B, T, d_model], context) → [B, T, d_model]."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class DenseMLP(MLP):
    """One network for all tokens: `inputs` names the matrices that read the stream, `inner` joins what they give.

    Attributes:
        activation: a name among ACTIVATIONS.
        d_ff: width between the matrices.
        bias: whether each matrix has one.
    """

    inputs: ClassVar[tuple[str, ...]]
    activation: ClassVar[str]
    d_ff: int
    bias: bool = False

    def __post_init__(self) -> None:
        self.need_at_least(1, "d_ff")

    def inner(self, *projected: Tensor) -> Tensor:
        """One tensor [..., d_ff] for each of `inputs` → [..., d_ff]."""
        raise NotImplementedError

    def build(self, d_model: int) -> nn.Module:
        return Network(d_model, self)


class PlainMLP(DenseMLP):
    """act(up)."""

    inputs = ("up",)

    def inner(self, *projected: Tensor) -> Tensor:
        (up,) = projected
        return ACTIVATIONS[self.activation](up)


class GatedMLP(DenseMLP):
    """act(gate) · up."""

    inputs = ("gate", "up")

    def inner(self, *projected: Tensor) -> Tensor:
        gate, up = projected
        return ACTIVATIONS[self.activation](gate) * up


class Network(nn.Module):
    """down(inner(gate(x), up(x))): gate, if there is one, and up [d_ff, d_model], down [d_model, d_ff]."""

    def __init__(self, d_model: int, mlp: DenseMLP) -> None:
        super().__init__()
        for name in mlp.inputs:
            self.add_module(name, Projection(d_model, mlp.d_ff, bias=mlp.bias))
        self.down = Projection(mlp.d_ff, d_model, bias=mlp.bias, role="residual_output")
        self.inputs, self.inner = mlp.inputs, mlp.inner

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        projected = [getattr(self, name)(x) for name in self.inputs]
        if _recomputes(x):
            output: Tensor = _Down.apply(self.inner, self.down.weight, self.down.bias, *projected)  # type: ignore[no-untyped-call]
            return output
        return self.down(self.inner(*projected))  # type: ignore[no-any-return]


def _recomputes(x: Tensor) -> bool:
    """Whether training goes through `_Down`: on a CPU, where it is faster. A compiler does the same by itself."""
    plain = torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type)
    return x.device.type == "cpu" and torch.is_grad_enabled() and not plain


class _Down(torch.autograd.Function):
    """down(inner(…)), whose backward pass recomputes the values in between. A gated MLP then keeps half the memory.

    It goes through ROWS rows at a time, so that the values in between never exist for all rows at once.
    """

    @staticmethod
    def forward(
        ctx: Any, inner: Callable[..., Tensor], weight: Tensor, bias: Tensor | None, *projected: Tensor
    ) -> Tensor:
        ctx.inner, ctx.biased = inner, bias is not None
        ctx.save_for_backward(weight, *projected)
        out = projected[0].new_empty(*projected[0].shape[:-1], len(weight))
        for out_rows, *rows in zip(*map(_in_rows, (out, *projected)), strict=True):
            torch.mm(inner(*rows), weight.mT, out=out_rows)
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        weight, *projected = ctx.saved_tensors
        d_bias = d_out.reshape(-1, len(weight)).sum(0) if ctx.biased else None
        if torch.is_grad_enabled():  # create_graph=True: what the gradients are made of has to be differentiable
            gradients = torch.autograd.grad(
                F.linear(ctx.inner(*projected), weight), (weight, *projected), d_out, create_graph=True
            )
            return None, gradients[0], d_bias, *gradients[1:]
        d_weight, contiguous = torch.zeros_like(weight), torch.contiguous_format
        d_projected = [torch.empty_like(x, memory_format=contiguous) for x in projected]
        for d_rows, *both in zip(*map(_in_rows, (d_out, *projected, *d_projected)), strict=True):
            rows, places = both[: len(projected)], both[len(projected) :]
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in rows]
                hidden = ctx.inner(*leaves)
            # Not addmm_, which torch's FLOP counter does not count.
            torch.addmm(d_weight, d_rows.mT, hidden.detach(), out=d_weight)
            for place, gradient in zip(places, torch.autograd.grad(hidden, leaves, d_rows @ weight), strict=True):
                place.copy_(gradient)
        return None, d_weight, d_bias, *d_projected


def _in_rows(x: Tensor) -> tuple[Tensor, ...]:
    """x [..., D] as pieces of [ROWS, D] at most, views where x is contiguous."""
    return torch.split(x.reshape(-1, x.shape[-1]), ROWS)


@register("relu")
class ReLU(PlainMLP):
    """Plain, with relu, as in the original Transformer (1706.03762)."""

    activation = "relu"


@register("relu2")
class ReLU2(PlainMLP):
    """Plain, with the squared relu of Primer (2109.08668)."""

    activation = "relu2"


@register("gelu")
class GELU(PlainMLP):
    """Plain, with the exact GELU, as in GPT-NeoX and Falcon (1606.08415)."""

    activation = "gelu"


@register("gelu_tanh")
class TanhGELU(PlainMLP):
    """Plain, with the tanh approximation of GELU, as in GPT-2 and StarCoder 2."""

    activation = "gelu_tanh"


@register("silu")
class SiLU(PlainMLP):
    """Plain, with x · sigmoid(x) (1606.08415, 1702.03118)."""

    activation = "silu"


@register("glu")
class GLU(GatedMLP):
    """Gated by a sigmoid (Dauphin et al. 2016, 1612.08083)."""

    activation = "sigmoid"


@register("bilinear")
class Bilinear(GatedMLP):
    """Gated by the gate itself, without a nonlinearity (2002.05202)."""

    activation = "identity"


@register("reglu")
class ReGLU(GatedMLP):
    """Gated by relu (2002.05202)."""

    activation = "relu"


@register("geglu")
class GEGLU(GatedMLP):
    """Gated by GELU: its tanh approximation as in Gemma, or the exact one (`tanh=false`)."""

    activation = "gelu"
    tanh: bool = True

    def inner(self, *projected: Tensor) -> Tensor:
        gate, up = projected
        return (gelu_tanh if self.tanh else F.gelu)(gate) * up


@register("swiglu")
class SwiGLU(GatedMLP):
    """Gated by SiLU, as in Llama."""

    activation = "silu"


@register("clamped_swiglu")
class ClampedSwiGLU(GatedMLP):
    """Gated by g · sigmoid(alpha · g), with g and up bounded by `limit` and 1 added to up, as in gpt-oss (2508.10925).

    g is bounded from above alone, up from both sides.
    """

    activation = "sigmoid"
    limit: float = 7.0
    alpha: float = 1.702

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_positive("limit", "alpha")

    def inner(self, *projected: Tensor) -> Tensor:
        gate = projected[0].clamp(max=self.limit)
        up = projected[1].clamp(-self.limit, self.limit)
        return gate * torch.sigmoid(self.alpha * gate) * (up + 1)

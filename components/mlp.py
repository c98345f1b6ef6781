"""The position-wise network of a block, plain or gated; `components.moe` makes mixtures of experts of it.

plain: down(act(up(x))), two matrices.
gated: down(act(gate(x)) · up(x)), three (Shazeer 2020, 2002.05202); at equal parameters its d_ff is 2/3 of a plain one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.forward_context import ForwardContext
from components.fused import down
from components.fused.mlp import ACTIVATION_NUMBERS, Activation, activate
from components.initialization import Projection
from components.products import in_product_dtype
from components.registry import Component, register
from components.stepping.joined import Product
from components.stepping.preparation import Preparable, Preparation


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
        """One tensor [..., d_ff] for each of `inputs` → [..., d_ff], from torch's operations."""
        raise NotImplementedError

    @property
    def fused(self) -> Activation | None:
        """The fused form of `inner`; None if it has none."""
        return None

    def join(self, *projected: Tensor) -> Tensor:
        """As `inner`, by the fused form where it takes the tensors."""
        return activate(self.fused, self.inner, projected)

    def build(self, d_model: int) -> nn.Module:
        return Network(d_model, self)


class PlainMLP(DenseMLP):
    """act(up)."""

    inputs = ("up",)

    def inner(self, *projected: Tensor) -> Tensor:
        (up,) = projected
        return ACTIVATIONS[self.activation](up)

    @property
    def fused(self) -> Activation | None:
        return _known(self, PlainMLP, self.activation)


class GatedMLP(DenseMLP):
    """act(gate) · up."""

    inputs = ("gate", "up")

    def inner(self, *projected: Tensor) -> Tensor:
        gate, up = projected
        return ACTIVATIONS[self.activation](gate) * up

    @property
    def fused(self) -> Activation | None:
        return _known(self, GatedMLP, self.activation)


def _known(mlp: DenseMLP, form: type[DenseMLP], activation: str) -> Activation | None:
    """The fused activation of this name, for an MLP whose `inner` is that of `form`."""
    is_known = type(mlp).inner is form.inner and activation in ACTIVATION_NUMBERS
    return Activation(activation) if is_known else None


class Network(Preparable, nn.Module):
    """down(inner(gate(x), up(x))): gate, if there is one, and up [d_ff, d_model], down [d_model, d_ff]."""

    reads_by_products = True

    def __init__(self, d_model: int, mlp: DenseMLP) -> None:
        super().__init__()
        for name in mlp.inputs:
            self.add_module(name, Projection(d_model, mlp.d_ff, bias=mlp.bias))
        self.down = Projection(mlp.d_ff, d_model, bias=mlp.bias, role="residual_output")
        self.inputs, self.mlp = mlp.inputs, mlp

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        x = in_product_dtype(x)
        projected = [getattr(self, name)(x) for name in self.inputs]
        if down.recomputes(self.mlp.fused, projected):
            return down.down(self.mlp.fused, self.mlp.inner, self.down.weight, self.down.bias, projected)
        return self.down(self.mlp.join(*projected))  # type: ignore[no-any-return]

    def prepared(self, preparation: Preparation) -> PreparedNetwork | None:
        inputs = preparation.product(*(getattr(self, name) for name in self.inputs))
        down = preparation.product(self.down)
        if type(self) is not Network or inputs is None or down is None:
            return None
        return PreparedNetwork(inputs, len(self.inputs), self.mlp.inner, down)


class PreparedNetwork:
    """The form of `Network`: gate and up by one product."""

    def __init__(self, inputs: Product, count: int, inner: Callable[..., Tensor], down: Product) -> None:
        self._inputs, self._count, self._inner, self._down = inputs, count, inner, down

    def __call__(self, x: Tensor, context: ForwardContext) -> Tensor:
        return self._down(self._inner(*self._inputs(x).chunk(self._count, dim=-1)))


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

    @property
    def fused(self) -> Activation | None:
        return _known(self, GEGLU, "gelu_tanh" if self.tanh else "gelu")


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

    @property
    def fused(self) -> Activation | None:
        if type(self).inner is not ClampedSwiGLU.inner:
            return None
        return Activation("clamped_swish", self.limit, self.alpha)

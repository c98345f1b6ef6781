"""The position-wise network of a block: plain (two matrices) or gated (three).

Gated forms multiply act(gate(x)) with up(x) (Shazeer 2020, 2002.05202); at equal parameters their d_ff is 2/3 of a
plain one's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from components.frame import Frame
from components.initialization import Projection
from components.registry import Component, OptionError, register

Activation = Callable[[Tensor], Tensor]


class MLP(Component, kind="mlp"):
    """What a block computes at each position by itself."""

    def build(self, d_model: int) -> nn.Module:
        """A module: forward(x [B, T, d_model], frame) → [B, T, d_model]."""
        raise NotImplementedError


def _check_width(d_ff: int) -> None:
    if d_ff < 1:
        raise OptionError("d_ff", f"must be at least 1, got {d_ff}")


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (Hendrycks & Gimpel 2016, 1606.08415), as Gemma and GPT-2 use it."""
    return F.gelu(x, approximate="tanh")


def relu2(x: Tensor) -> Tensor:
    """relu(x)² (So et al. 2021, 2109.08668)."""
    return F.relu(x).square()


class PlainMLP(nn.Module):
    """down(act(up(x))): up [d_ff, d_model], down [d_model, d_ff]."""

    def __init__(self, d_model: int, d_ff: int, bias: bool, activation: Activation) -> None:
        super().__init__()
        self.up = Projection(d_model, d_ff, bias=bias)
        self.down = Projection(d_ff, d_model, bias=bias, role="residual_output")
        self.activation = activation

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        return self.down(self.activation(self.up(x)))  # type: ignore[no-any-return]


class GatedMLP(nn.Module):
    """down(act(gate(x)) · up(x)): gate and up [d_ff, d_model], down [d_model, d_ff]."""

    def __init__(self, d_model: int, d_ff: int, bias: bool, activation: Activation) -> None:
        super().__init__()
        self.gate = Projection(d_model, d_ff, bias=bias)
        self.up = Projection(d_model, d_ff, bias=bias)
        self.down = Projection(d_ff, d_model, bias=bias, role="residual_output")
        self.activation = activation

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


@register("gelu")
class GELU(MLP):
    """Plain, with the exact GELU, or its tanh approximation as in GPT-2 (`tanh`)."""

    d_ff: int
    bias: bool = False
    tanh: bool = False

    def __post_init__(self) -> None:
        _check_width(self.d_ff)

    def build(self, d_model: int) -> nn.Module:
        return PlainMLP(d_model, self.d_ff, self.bias, gelu_tanh if self.tanh else F.gelu)


@register("relu2")
class ReLU2(MLP):
    """Plain, with the squared ReLU of Primer (2109.08668)."""

    d_ff: int
    bias: bool = False

    def __post_init__(self) -> None:
        _check_width(self.d_ff)

    def build(self, d_model: int) -> nn.Module:
        return PlainMLP(d_model, self.d_ff, self.bias, relu2)


@register("geglu")
class GEGLU(MLP):
    """Gated by GELU: its tanh approximation as in Gemma, or the exact one (`tanh=false`)."""

    d_ff: int
    bias: bool = False
    tanh: bool = True

    def __post_init__(self) -> None:
        _check_width(self.d_ff)

    def build(self, d_model: int) -> nn.Module:
        return GatedMLP(d_model, self.d_ff, self.bias, gelu_tanh if self.tanh else F.gelu)


@register("swiglu")
class SwiGLU(MLP):
    """Gated by SiLU, as in Llama."""

    d_ff: int
    bias: bool = False

    def __post_init__(self) -> None:
        _check_width(self.d_ff)

    def build(self, d_model: int) -> nn.Module:
        return GatedMLP(d_model, self.d_ff, self.bias, F.silu)

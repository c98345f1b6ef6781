"""Initial weights, addressed: a parameter's value depends on (seed, its name, its shape) alone.

So two architectures share every weight in which they don't differ, and an arm of a sweep is paired with its baseline.
The `init` component decides how large weights are. Each module says in `fills()` what its parameters are for.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.onednn import onednn_is_faster, project
from components.registry import Component, register

Role = Literal["projection", "residual_output", "embedding"]


@dataclass(frozen=True)
class Constant:
    """A parameter that starts at one value, such as a norm's gain."""

    value: float


@dataclass(frozen=True)
class Normal:
    """A parameter drawn from a normal distribution whose standard deviation the init component decides.

    Attributes:
        role: what the weight does; a residual_output writes into the residual stream.
        fan_in: how many values one output sums over.
    """

    role: Role
    fan_in: int


Fill = Constant | Normal


class UnfilledParameter(TypeError):
    """Nothing says how a parameter starts.

    Attributes:
        path: of the parameter in the model.
    """

    def __init__(self, module: nn.Module, path: str) -> None:
        super().__init__(f"{type(module).__name__}.fills() does not say how its parameter '{path}' starts")
        self.path = path


class Init(Component, kind="init"):
    """How large the initial weights are."""

    def deviation(self, fill: Normal, n_layers: int) -> float:
        """Standard deviation of a weight in a model of n_layers."""
        raise NotImplementedError


@register("normal")
class NormalInit(Init):
    """One standard deviation for every matrix and embedding, the convention of Gemma's and Llama's public code."""

    std: float = 0.02

    def __post_init__(self) -> None:
        self.need_positive("std")

    def deviation(self, fill: Normal, n_layers: int) -> float:
        return self.std


@register("gpt2")
class GPT2Init(Init):
    """As `normal`, with what writes into the residual stream divided by sqrt(2 · n_layers) (Radford et al. 2019)."""

    std: float = 0.02

    def __post_init__(self) -> None:
        self.need_positive("std")

    def deviation(self, fill: Normal, n_layers: int) -> float:
        return self.std / math.sqrt(2 * n_layers) if fill.role == "residual_output" else self.std


@register("fan_in")
class FanInInit(Init):
    """Variance gain² / fan_in, so that a projection keeps its input's scale at any width (LeCun et al. 1998)."""

    gain: float = 1.0

    def __post_init__(self) -> None:
        self.need_positive("gain")

    def deviation(self, fill: Normal, n_layers: int) -> float:
        return self.gain / math.sqrt(fill.fan_in)


@runtime_checkable
class Filled(Protocol):
    """A module that defines the initial values of its own parameters."""

    def fills(self) -> dict[str, Fill]: ...


class Projection(nn.Linear):
    """A linear map that knows its role: weight [out, in], bias [out] or none."""

    def __init__(self, d_in: int, d_out: int, *, bias: bool = False, role: Role = "projection") -> None:
        self.role = role
        self.by_onednn = onednn_is_faster()
        super().__init__(d_in, d_out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out]."""
        return project(x, self.weight, self.bias) if self.by_onednn else F.linear(x, self.weight, self.bias)

    def reset_parameters(self) -> None:
        """Leave the weights as they are: `initialize` fills them."""

    def fills(self) -> dict[str, Fill]:
        fills: dict[str, Fill] = {"weight": Normal(self.role, self.in_features)}
        return fills | {"bias": Constant(0.0)} if self.bias is not None else fills


def _fills_of(module: nn.Module) -> dict[str, Fill]:
    """The initial values that a module defines, or the convention for torch's own layers."""
    if isinstance(module, Filled):
        return module.fills()
    match module:
        case nn.Linear():
            return {"weight": Normal("projection", module.in_features), "bias": Constant(0.0)}
        case nn.Embedding():
            return {"weight": Normal("embedding", module.embedding_dim)}
        case nn.LayerNorm() | nn.RMSNorm():
            return {"weight": Constant(1.0), "bias": Constant(0.0)}
    return {}


def draw(seed: int, name: str, shape: torch.Size) -> Tensor:
    """Standard normal values, fp32 on the CPU, that depend on (seed, name, shape) alone."""
    address = f"{seed}/{name}/{'x'.join(map(str, shape))}"
    digest = hashlib.sha256(address.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.empty(shape, dtype=torch.float32).normal_(generator=generator)


@torch.no_grad()
def initialize(
    model: nn.Module, seed: int, init: Init, n_layers: int, *, address: str = "", without: nn.Module | None = None
) -> None:
    """Fill every parameter of a built model in place, on whatever device and in whatever dtype it has.

    Args:
        address: what the names of the parameters begin with where their values are drawn.
        without: a part of the model that is left as it is.
    Raises:
        UnfilledParameter: neither a parameter's module (`fills()`) nor a convention says how it starts.
    """
    left = set() if without is None else set(without.modules())
    for prefix, module in model.named_modules():
        if module in left:
            continue
        fills = _fills_of(module)
        for name, parameter in module.named_parameters(recurse=False):
            path = f"{prefix}.{name}" if prefix else name
            fill = fills.get(name)
            if fill is None:
                raise UnfilledParameter(module, path)
            if isinstance(fill, Constant):
                parameter.fill_(fill.value)
            else:
                parameter.copy_(draw(seed, address + path, parameter.shape) * init.deviation(fill, n_layers))

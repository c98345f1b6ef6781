"""Every plain and gated MLP against its formula, written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from components import registry
from components.decoder import Decoder
from components.mlp import GEGLU, ClampedSwiGLU, DenseMLP
from components.registry import OptionError
from tests.components.architectures import gemma2


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: Tensor) -> Tensor:
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def clamped(gate: Tensor, up: Tensor) -> Tensor:
    gate = torch.where(gate > 7, 7, gate)
    up = torch.where(up.abs() > 7, 7 * up.sign(), up)
    return (up + 1) * gate * sigmoid(1.702 * gate)


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "relu": lambda up: (up + up.abs()) / 2,
    "relu2": lambda up: torch.where(up > 0, up**2, 0),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": lambda up: up * sigmoid(up),
    "glu": lambda gate, up: sigmoid(gate) * up,
    "bilinear": lambda gate, up: gate * up,
    "reglu": lambda gate, up: torch.where(gate > 0, gate, 0) * up,
    "geglu": lambda gate, up: gelu_tanh(gate) * up,
    "swiglu": lambda gate, up: gate * sigmoid(gate) * up,
    "clamped_swiglu": clamped,
}
DENSE = [name for name in registry.names("mlp") if issubclass(registry.lookup("mlp", name), DenseMLP)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", DENSE)
def test_an_mlp_is_its_formula_between_its_matrices(name: str, bias: bool) -> None:
    mlp = registry.lookup("mlp", name)(d_ff=20, bias=bias)  # type: ignore[call-arg]
    assert isinstance(mlp, DenseMLP)
    network = mlp.build(12).double()
    state = {key: noise(*value.shape, seed=seed) for seed, (key, value) in enumerate(network.state_dict().items())}
    network.load_state_dict(state)
    gated = FORMULAS[name].__code__.co_argcount == 2
    inputs = ("gate", "up") if gated else ("up",)
    assert list(state) == [
        f"{matrix}.{part}" for matrix in (*inputs, "down") for part in (("weight", "bias") if bias else ("weight",))
    ]

    def times(matrix: str, x: Tensor) -> Tensor:
        return x @ state[f"{matrix}.weight"].T + (state[f"{matrix}.bias"] if bias else 0)

    x = noise(3, 5, 12, seed=99)
    expected = times("down", FORMULAS[name](*(times(matrix, x) for matrix in inputs)))
    torch.testing.assert_close(network(x, None), expected)


def test_geglu_takes_the_exact_gelu_when_told() -> None:
    gate, up = noise(40) * 2, noise(40, seed=1)
    torch.testing.assert_close(GEGLU(d_ff=1, tanh=False).inner(gate, up), gelu(gate) * up)
    assert (GEGLU(d_ff=1).inner(gate, up) - gelu(gate) * up).abs().max() > 1e-4


@pytest.mark.parametrize(("limit", "alpha"), [(7.0, 1.702), (1.5, 1.702), (7.0, 1.0)])
def test_clamped_swiglu_is_gpt_oss_gate(limit: float, alpha: float) -> None:
    gate, up = noise(2, 200) * 5
    assert (gate > limit).any()
    assert (up < -limit).any()
    published = SimpleNamespace(limit=limit, alpha=alpha)
    theirs = GptOssExperts._apply_gate(published, torch.stack([gate, up], dim=-1).flatten())  # type: ignore[arg-type]
    torch.testing.assert_close(ClampedSwiGLU(d_ff=1, limit=limit, alpha=alpha).inner(gate, up), theirs)


def test_biases_start_at_zero_and_matrices_do_not() -> None:
    model = Decoder.initialized(gemma2(mlp=GEGLU(d_ff=40, bias=True)), seed=0)
    for name, parameter in model.layers[0].mlp.named_parameters():
        assert (parameter == 0).all() == name.endswith("bias"), name


@pytest.mark.parametrize("options", [{"d_ff": 0}, {"limit": 0.0}, {"alpha": -1.0}])
def test_an_impossible_option_is_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(OptionError) as refusal:
        ClampedSwiGLU(**{"d_ff": 8, **options})  # type: ignore[arg-type]
    assert [refusal.value.option] == list(options)

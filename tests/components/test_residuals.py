"""Each residual style against its formula, with branches and norms that all differ."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components import registry
from components.decoder import Decoder
from components.forward_context import ForwardContext
from components.registry import OptionError
from components.residual import PreNorm, Residual
from tests.components.architectures import gemma2

D = 6
Map = Callable[[Tensor], Tensor]


class Branch(nn.Module):
    """A map that does not commute with the others."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = torch.randn(D, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def forward(self, x: Tensor, context: ForwardContext | None = None) -> Tensor:
        return torch.tanh(x @ self.weight)


def block(style: Residual) -> nn.Module:
    seeds = count(10)
    return style.build(D, Branch(0), Branch(1), lambda: Branch(next(seeds))).double()


def pre(x: Tensor, mixer: Map, mlp: Map, norms: list[Map]) -> Tensor:
    h = x + mixer(norms[0](x))
    return h + mlp(norms[1](h))


def post(x: Tensor, mixer: Map, mlp: Map, norms: list[Map]) -> Tensor:
    h = norms[0](x + mixer(x))
    return norms[1](h + mlp(h))


def sandwich(x: Tensor, mixer: Map, mlp: Map, norms: list[Map]) -> Tensor:
    h = x + mixer(norms[0](x), norms[1])  # type: ignore[call-arg]
    return h + mlp(norms[2](h), norms[3])  # type: ignore[call-arg]


def output(x: Tensor, mixer: Map, mlp: Map, norms: list[Map]) -> Tensor:
    h = x + mixer(x, norms[0])  # type: ignore[call-arg]
    return h + mlp(h, norms[1])  # type: ignore[call-arg]


def parallel(x: Tensor, mixer: Map, mlp: Map, norms: list[Map]) -> Tensor:
    return x + mixer(norms[0](x)) + mlp(norms[0](x))


def parallel_two_norms(x: Tensor, mixer: Map, mlp: Map, norms: list[Map]) -> Tensor:
    return x + mixer(norms[0](x)) + mlp(norms[1](x))


FORMULAS: dict[str, Any] = {
    "pre": pre,
    "post": post,
    "sandwich": sandwich,
    "output": output,
    "parallel": parallel,
    "parallel_two_norms": parallel_two_norms,
}


def weighed(branch: Map, factor: Tensor | float) -> Callable[..., Tensor]:
    """What a branch adds: its output, normed where the style does so, times the factors."""
    return lambda x, norm=lambda y: y: factor * norm(branch(x))


def stream() -> Tensor:
    return torch.randn(2, 3, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("name", registry.names("residual"))
@pytest.mark.parametrize(
    "options", [{}, {"multiplier": 0.22}, {"layer_scale": 0.1}, {"multiplier": 3.0, "layer_scale": 2.0}]
)
def test_a_block_is_its_formula_whatever_weighs_its_branches(name: str, options: dict[str, float]) -> None:
    style: Any = registry.lookup("residual", name)(**options)
    built = block(style)
    factors: list[Tensor | float] = [options.get("multiplier", 1.0)] * 2
    if "layer_scale" in options:
        scales = [torch.rand(D, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (20, 21)]
        built.load_state_dict({"mixer_scale": scales[0], "mlp_scale": scales[1]})
        factors = [factor * scale for factor, scale in zip(factors, scales, strict=True)]
    mixer, mlp = (weighed(Branch(seed), factor) for seed, factor in enumerate(factors))
    expected = FORMULAS[name](stream(), mixer, mlp, [Branch(seed) for seed in range(10, 14)])
    torch.testing.assert_close(built(stream(), None), expected)


@pytest.mark.parametrize("name", registry.names("residual"))
def test_layer_scales_start_at_their_option_with_a_weight_for_each_branch_and_channel(name: str) -> None:
    style: Any = registry.lookup("residual", name)(layer_scale=0.01)
    found = {
        name: parameter
        for name, parameter in Decoder.initialized(gemma2(residual=style), seed=0).named_parameters()
        if name.endswith("_scale")
    }
    assert set(found) == {f"layers.{layer}.{branch}_scale" for layer in range(4) for branch in ("mixer", "mlp")}
    assert all(torch.equal(scale, torch.full((24,), 0.01)) for scale in found.values())


def test_only_the_style_that_norms_every_sum_goes_without_a_final_norm() -> None:
    styles = [registry.lookup("residual", name)() for name in registry.names("residual")]
    without = [style.name for style in styles if isinstance(style, Residual) and not style.has_final_norm]
    assert without == ["post"]


@pytest.mark.parametrize("options", [{"multiplier": 0.0}, {"multiplier": -1.0}, {"layer_scale": 0.0}])
def test_an_impossible_option_is_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(OptionError) as refusal:
        PreNorm(**options)
    assert [refusal.value.option] == list(options)

"""Norms against published code and their formulas. Those with a learned gain: `test_parts.py`."""

from __future__ import annotations

import pytest
import torch
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

from components.decoder import Decoder
from components.fused.piece import naive
from components.norm import DynamicTanh, LayerNorm, NonparametricLayerNorm, NonparametricRMSNorm, Norm, RMSNorm
from components.registry import OptionError
from tests.components.architectures import gemma2


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nonparametric_layernorm_equals_olmos_to_the_bit(dtype: torch.dtype) -> None:
    x = (noise(3, 7, 48) * 3 + 1).to(dtype)
    layer = NonparametricLayerNorm().build(48)
    assert torch.equal(layer(x), OlmoLayerNorm(48)(x))
    assert not list(layer.parameters())


@pytest.mark.parametrize(("without", "learned"), [(NonparametricRMSNorm, RMSNorm), (NonparametricLayerNorm, LayerNorm)])
def test_nonparametric_norms_are_the_learned_ones_at_their_start(without: type[Norm], learned: type[Norm]) -> None:
    x = noise(5, 48) * 0.1 + 0.2
    other = learned(eps=0.03).build(48)  # type: ignore[call-arg]
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.fill_(float(name == "weight"))
    expected = without(eps=0.03).build(48)(x)  # type: ignore[call-arg]
    torch.testing.assert_close(other(x), expected, rtol=3e-7, atol=0)
    with naive("norm"):
        assert torch.equal(other(x), expected)
    assert not torch.allclose(without(eps=0.01).build(48)(x), other(x), rtol=1e-2)  # type: ignore[call-arg]


def test_dynamic_tanh_is_its_formula_and_learns_its_slope() -> None:
    layer = DynamicTanh().build(48).double()
    with torch.no_grad():
        layer.alpha.fill_(0.7)
        layer.weight.copy_(noise(48, seed=1))
        layer.bias.copy_(noise(48, seed=2))
    x = noise(5, 48).double() * 3
    expected = torch.tanh(0.7 * x) * noise(48, seed=1).double() + noise(48, seed=2).double()
    torch.testing.assert_close(layer(x), expected)
    layer(x).sum().backward()
    slope = (x / torch.cosh(0.7 * x) ** 2 * noise(48, seed=1).double()).sum()
    torch.testing.assert_close(layer.alpha.grad, slope[None])


def test_dynamic_tanh_starts_at_its_alpha_and_the_identity_gain() -> None:
    layer = Decoder.initialized(gemma2(norm=DynamicTanh(alpha=0.8)), seed=0).final_norm
    x = noise(3, 24)
    torch.testing.assert_close(layer(x), torch.tanh(0.8 * x))


def test_dynamic_tanh_computes_in_fp32_and_casts_last() -> None:
    layer = Decoder.initialized(gemma2(norm=DynamicTanh()), seed=0).final_norm.bfloat16()
    x = (noise(3, 24) * 3).bfloat16()
    assert torch.equal(layer(x), torch.tanh(0.5 * x.float()).bfloat16())


@pytest.mark.parametrize(
    ("norm", "option"),
    [(RMSNorm, "eps"), (NonparametricRMSNorm, "eps"), (NonparametricLayerNorm, "eps"), (DynamicTanh, "alpha")],
)
def test_an_impossible_option_is_refused_by_name(norm: type[Norm], option: str) -> None:
    with pytest.raises(OptionError) as refusal:
        norm(**{option: 0.0})
    assert refusal.value.option == option

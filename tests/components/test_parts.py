"""Each small part against the published implementation or its formula."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb as rotate_interleaved
from transformers.models.falcon.modeling_falcon import build_alibi_tensor
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_half

from components.fused.piece import naive
from components.initialization import FanInInit, GPT2Init, Normal, NormalInit
from components.mlp import relu2
from components.norm import LayerNorm, RMSNorm, ZeroCenteredRMSNorm
from components.position.positions import ALiBi, RoPE
from components.registry import OptionError
from components.softcap import softcap


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("ours", "theirs"), [(RMSNorm, LlamaRMSNorm), (ZeroCenteredRMSNorm, Gemma2RMSNorm)])
def test_rms_norms_equal_their_published_code_to_the_bit(ours: type, theirs: type, dtype: torch.dtype) -> None:
    published = theirs(48, eps=1e-5)
    layer = ours(eps=1e-5).build(48)
    gain = noise(48, seed=1)
    with torch.no_grad():
        published.weight.copy_(gain)
        layer.weight.copy_(gain)
    x = (noise(3, 7, 48) * 3).to(dtype)
    with naive():
        assert torch.equal(layer.to(dtype)(x), published.to(dtype)(x))
    torch.testing.assert_close(layer.to(dtype)(x), published.to(dtype)(x))  # fused on a CPU


@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_is_its_formula(bias: bool) -> None:
    layer = LayerNorm(bias=bias, eps=1e-3).build(48).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(noise(48, seed=1))
    x = noise(5, 48).double() * 2 + 1
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-3).sqrt()
    expected = expected * noise(48, seed=1).double() + (noise(48, seed=1).double() if bias else 0)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_rotary_tables_turn_as_the_published_code_does(pairing: str) -> None:
    q, positions = noise(2, 3, 11, 16), torch.arange(11)
    rotated = RoPE(theta=500.0, pairing=pairing).rotation(16, positions)(q)  # type: ignore[arg-type]
    angles = positions[:, None] / 500.0 ** (torch.arange(0, 16, 2) / 16)
    if pairing == "half":
        table = torch.cat([angles, angles], -1)[None]
        expected, _ = rotate_half(q, q, table.cos(), table.sin())
    else:
        table = angles.repeat_interleave(2, dim=-1)[None]
        expected, _ = rotate_interleaved(q, q, table.cos(), table.sin())
    torch.testing.assert_close(rotated, expected)


def test_a_fraction_rotates_only_the_first_values_of_a_head() -> None:
    q, positions = noise(1, 1, 9, 16), torch.arange(9)
    rotated = RoPE(fraction=0.25).rotation(16, positions)(q)
    assert torch.equal(rotated[..., 4:], q[..., 4:])
    torch.testing.assert_close(rotated[..., :4], RoPE().rotation(4, positions)(q[..., :4]))
    assert not torch.equal(rotated[..., 1:, :4], q[..., 1:, :4])


def test_rope_refuses_an_odd_number_of_rotated_values() -> None:
    with pytest.raises(OptionError, match="rotates 3 of head_dim 6"):
        RoPE(fraction=0.5).check_head_dim(6)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 6, 8, 12, 16, 71])
def test_alibi_slopes_equal_the_published_ones(n_heads: int) -> None:
    bias = build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), n_heads, torch.float32)
    torch.testing.assert_close(ALiBi().alibi_slopes(n_heads), bias[:, 0, 1], rtol=1e-2, atol=0)  # theirs is bfloat16


def test_a_softcap_bounds_without_cutting_the_gradient() -> None:
    x = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], dtype=torch.float64, requires_grad=True)
    y = softcap(x, 5.0)
    assert y.tolist() == pytest.approx([5 * math.tanh(v / 5) for v in x.tolist()])
    y.sum().backward()
    assert x.grad is not None
    assert (x.grad > 0).all()
    assert softcap(x, None) is x


def test_relu2_squares_what_relu_keeps() -> None:
    assert relu2(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 9.0]


def test_init_deviations_are_those_declared() -> None:
    inner, outer = Normal("projection", 64), Normal("residual_output", 64)
    assert NormalInit(std=0.02).deviation(outer, 8) == 0.02
    assert GPT2Init(std=0.02).deviation(inner, 8) == 0.02
    assert GPT2Init(std=0.02).deviation(outer, 8) == pytest.approx(0.02 / 4)
    assert FanInInit(gain=2.0).deviation(inner, 8) == pytest.approx(0.25)

"""Positions for other lengths: scaled rotations equal the published ones to the bit, sinusoids their formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from components.attention.span import InterleavedSpan
from components.decoder import Decoder
from components.position.embedding import SinusoidalPosition
from components.position.positions import RoPE, Rotary
from components.position.rope_scaling import LinearRoPE, Llama3RoPE, YarnRoPE
from components.registry import OptionError
from tests.components.architectures import gemma2

LLAMA3 = Llama3RoPE(theta=500_000.0, factor=8.0, original_context=8192)
CASES: list[tuple[Rotary, int, dict[str, Any]]] = [
    (RoPE(theta=500_000.0), 64, {"rope_type": "default"}),
    (LinearRoPE(theta=1e6, factor=8.0), 256, {"rope_type": "linear", "factor": 8.0}),
    (
        LLAMA3,
        128,
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "context": 8192},
    ),
    (
        Llama3RoPE(factor=32.0, original_context=512, low_freq_factor=2.0, high_freq_factor=9.0),
        64,
        {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 9.0, "context": 512},
    ),
    (
        YarnRoPE(theta=1e6, factor=4.0, original_context=32_768),
        128,
        {"rope_type": "yarn", "factor": 4.0, "context": 32_768},
    ),
    (
        YarnRoPE(theta=150_000.0, factor=32.0, original_context=4096, truncate=False),
        64,
        {"rope_type": "yarn", "factor": 32.0, "context": 4096, "truncate": False},
    ),
    (
        YarnRoPE(factor=40.0, original_context=4096, beta_fast=20.0, beta_slow=2.0, attention_factor=0.7),
        64,
        {
            "rope_type": "yarn", "factor": 40.0, "context": 4096, "beta_fast": 20.0, "beta_slow": 2.0,
            "attention_factor": 0.7,
        },
    ),
    (  # a ramp of no width
        YarnRoPE(factor=4.0, original_context=6),
        16,
        {"rope_type": "yarn", "factor": 4.0, "context": 6},
    ),
    (  # a ramp that would start before the first pair
        YarnRoPE(factor=4.0, original_context=64),
        64,
        {"rope_type": "yarn", "factor": 4.0, "context": 64},
    ),
    (  # a ramp that would end after the last
        YarnRoPE(theta=10.0, factor=4.0, original_context=4096, beta_fast=600.0),
        16,
        {"rope_type": "yarn", "factor": 4.0, "context": 4096, "beta_fast": 600.0},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("position", "head_dim", "parameters"), CASES)
def test_tables_equal_the_transformers_librarys_to_the_bit(
    position: Rotary, head_dim: int, parameters: dict[str, Any]
) -> None:
    parameters = dict(parameters)
    if "context" in parameters:
        parameters["original_max_position_embeddings"] = parameters.pop("context")
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=131_072,
        rope_parameters=parameters | {"rope_theta": position.theta},
    )
    positions = torch.tensor([0, 1, 2, 100, 5_000, 100_000])
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])
    ours = position.rotation(head_dim, positions)
    assert torch.equal(torch.cat([ours.cos, ours.cos], -1), cos[0])
    assert torch.equal(torch.cat([ours.sin, ours.sin], -1), sin[0])


def test_a_fraction_is_scaled_like_a_smaller_head() -> None:
    positions = torch.arange(9)
    for position in (LLAMA3, LinearRoPE(factor=2.0), YarnRoPE(factor=8.0, original_context=64)):
        half = position.replace(fraction=0.5).rotation(32, positions)
        assert torch.equal(half.cos, position.rotation(16, positions).cos)


def test_a_factor_of_one_scales_nothing() -> None:
    positions = torch.arange(0, 10_000, 77)
    plain = RoPE().rotation(64, positions, torch.float64)
    for position in (
        LinearRoPE(factor=1.0),
        Llama3RoPE(factor=1.0, original_context=64),
        YarnRoPE(factor=1.0, original_context=64),
    ):
        torch.testing.assert_close(position.rotation(64, positions, torch.float64).sin, plain.sin, rtol=0, atol=1e-11)


def test_a_model_in_fp64_is_rotated_in_fp64() -> None:
    positions = torch.tensor([100_000])
    exact = [math.cos(100_000 / 10_000 ** (2 * i / 64)) for i in range(32)]
    fp64 = RoPE().rotation(64, positions, torch.float64).cos[0]
    torch.testing.assert_close(fp64, torch.tensor(exact, dtype=torch.float64), rtol=0, atol=1e-10)
    assert RoPE().rotation(64, positions, torch.bfloat16).cos.dtype == torch.float32
    model = Decoder.initialized(gemma2(), seed=0).double()
    frames = []
    model.layers[0].register_forward_pre_hook(lambda _, arguments: frames.append(arguments[1]))
    model(torch.zeros(1, 4, dtype=torch.long))
    assert next(iter(frames[0].rotations.values())).cos.dtype == torch.float64


def test_yarn_sharpens_the_scores_by_the_square_of_its_factor() -> None:
    yarn, q = YarnRoPE(factor=32.0, original_context=4096), torch.ones(1, 1, 1, 16)
    turned = yarn.rotation(16, torch.tensor([3]))(q)
    sharper = 0.1 * math.log(32) + 1
    assert float((turned * turned).sum() / (q * q).sum()) == pytest.approx(sharper**2)


def test_sinusoids_are_their_formula() -> None:
    module = SinusoidalPosition().build_embedding(10)
    found = module(torch.tensor([0, 3, 70_000]), torch.float64)
    for row, position in zip(found, (0, 3, 70_000), strict=True):
        for i in range(5):
            angle = position / 10_000 ** (2 * i / 10)
            assert row[2 * i : 2 * i + 2].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-9)
    assert list(module.parameters()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sinusoids_are_added_once_at_the_embedding_in_its_dtype(dtype: torch.dtype) -> None:
    model = Decoder.initialized(gemma2(position=SinusoidalPosition()), seed=0).to(dtype)
    assert model(torch.zeros(1, 300, dtype=torch.long)).dtype == dtype
    inputs = []
    model.layers[0].register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    tokens = torch.arange(7)[None]
    model(tokens)
    added = SinusoidalPosition().build_embedding(24)(torch.arange(7), dtype)
    assert torch.equal(inputs[0], model.embedding(tokens) + added)


def test_each_layer_kind_may_have_its_own_base_and_scaling() -> None:
    """Gemma 3's: a small base in local layers, a large and scaled one in global ones."""
    wide = LinearRoPE(theta=1e6, factor=8.0)
    architecture = gemma2(span=InterleavedSpan(window=5), kinds={"global": {"position": wide}})
    model = Decoder.initialized(architecture, seed=0)
    frames = []
    model.layers[0].register_forward_pre_hook(lambda _, arguments: frames.append(arguments[1]))
    model(torch.zeros(1, 4, dtype=torch.long))
    assert set(frames[0].rotations) == {(RoPE(), 8), (wide, 8)}
    assert [layer.mixer.position for layer in model.layers] == [RoPE(), wide, RoPE(), wide]


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (lambda: LinearRoPE(factor=0.5), "factor"),
        (lambda: LinearRoPE(factor=2.0, theta=0.5), "theta"),
        (lambda: Llama3RoPE(factor=2.0, original_context=0), "original_context"),
        (lambda: Llama3RoPE(factor=2.0, original_context=64, low_freq_factor=4.0), "low_freq_factor"),
        (lambda: YarnRoPE(factor=2.0, original_context=0), "original_context"),
        (lambda: YarnRoPE(factor=2.0, original_context=64, beta_slow=33.0), "beta_slow"),
        (lambda: YarnRoPE(factor=2.0, original_context=64, attention_factor=0.0), "attention_factor"),
        (lambda: gemma2(kinds={"global": {"position": SinusoidalPosition()}}), "kinds.global.position"),
        (lambda: gemma2(kinds={"global": {"position": RoPE(fraction=0.1)}}), "kinds.global.position.fraction"),
    ],
)
def test_impossible_options_are_refused_by_name(build: Any, option: str) -> None:
    with pytest.raises(OptionError) as refusal:
        build()
    assert refusal.value.option == option

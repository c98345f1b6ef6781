"""Costs against what was published, what torch counts, and a naive count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from components.attention.heads import GQA, MHA, MQA
from components.attention.mixer import mean_visible_keys
from components.attention.span import GlobalSpan, LocalSpan
from components.decoder import Decoder
from components.embedding import UntiedEmbedding
from components.moe.experts import MixtureOfExperts
from components.norm import RMSNorm
from components.residual import PreNorm
from lab.accounting.costs import costs
from lab.composition.compose import compose
from tests.components.architectures import gemma2


@pytest.mark.parametrize(
    ("name", "embedding", "others"),
    [
        ("gemma2_2b", 590_118_912, 2_024_517_888),
        ("gemma2_9b", 917_962_752, 8_324_201_984),
        ("gemma2_27b", 1_180_237_824, 26_047_480_320),
    ],
)
def test_gemma2_has_its_published_parameter_counts(name: str, embedding: int, others: int) -> None:
    counted = costs(compose("gemma2_tiny", [f"model={name}"]).experiment.model, 8192)
    assert counted.embedding_parameters == embedding
    assert counted.parameters - counted.embedding_parameters == others


@pytest.mark.parametrize("embedding", [gemma2().embedding, UntiedEmbedding()])
def test_flops_equal_torchs_count_where_nothing_is_masked(embedding: object) -> None:
    """One token is the longest context whose attention square torch's counter and a causal count agree on."""
    model = gemma2(span=GlobalSpan(), embedding=embedding)
    decoder = Decoder.initialized(model, seed=0, kernel="reference")
    with FlopCounterMode(display=False) as counter:
        decoder(torch.zeros(5, 1, dtype=torch.long))
    assert costs(model, 1).forward_flops_per_token * 5 == counter.get_total_flops()


def test_attention_flops_grow_by_the_visible_keys_alone() -> None:
    model = gemma2(n_layers=3, span=LocalSpan(window=5))
    short, long = (costs(model, context).forward_flops_per_token for context in (1, 40))
    visible = sum(min(position + 1, 5) for position in range(40)) / 40
    assert long - short == pytest.approx(3 * 4 * 4 * 8 * (visible - 1))


@pytest.mark.parametrize(("context", "window"), [(1, None), (7, None), (7, 1), (7, 7), (7, 9), (50, 13)])
def test_mean_visible_keys_equals_a_naive_count(context: int, window: int | None) -> None:
    naive = sum(min(position + 1, window or context) for position in range(context)) / context
    assert mean_visible_keys(context, window) == pytest.approx(naive)


def test_training_costs_three_forward_passes() -> None:
    counted = costs(gemma2(), 16)
    assert counted.flops_per_token == 3 * counted.forward_flops_per_token


def test_kv_bytes_are_two_per_layer_kv_head_and_dimension_capped_by_the_window() -> None:
    full = costs(gemma2(span=GlobalSpan()), 40).kv_bytes_per_token
    assert full == 2 * 4 * 2 * 8 * 2
    assert costs(gemma2(span=GlobalSpan(), heads=MHA(n_heads=4, head_dim=8)), 40).kv_bytes_per_token == 2 * full
    assert costs(gemma2(span=GlobalSpan(), heads=MQA(n_heads=4, head_dim=8)), 40).kv_bytes_per_token == full / 2
    assert costs(gemma2(), 40).kv_bytes_per_token == full * (0.5 + 0.5 * 5 / 40)


def test_mixtral_8x7b_has_its_published_size() -> None:
    """46.7B parameters, of which a token meets 12.9B (2401.04088)."""
    mixtral = gemma2(
        vocab_size=32_000,
        d_model=4096,
        n_layers=32,
        heads=GQA(n_heads=32, n_kv_heads=8, head_dim=128),
        span=GlobalSpan(),
        norm=RMSNorm(),
        residual=PreNorm(),
        mlp=MixtureOfExperts(n_experts=8, top_k=2, d_ff=14_336),
        embedding=UntiedEmbedding(),
    )
    counted = costs(mixtral, 8)
    assert counted.parameters == 46_702_792_704
    assert counted.active_parameters == 12_879_925_248


@pytest.mark.parametrize("options", [{}, {"n_shared_experts": 2, "shared_d_ff": 5, "bias": True}])
def test_experts_cost_the_flops_of_those_gone_through_and_the_parameters_of_all(options: dict[str, Any]) -> None:
    model = gemma2(span=GlobalSpan(), mlp=MixtureOfExperts(n_experts=6, top_k=2, d_ff=16, **options))
    decoder = Decoder.initialized(model, seed=0, kernel="reference")
    with FlopCounterMode(display=False) as counter:
        decoder(torch.arange(10)[:, None])
    counted = costs(model, 1)
    assert counted.forward_flops_per_token * 10 == counter.get_total_flops()
    of_one = 3 * 16 * 24 + (16 + 16 + 24 if "bias" in options else 0)
    assert counted.parameters == sum(parameter.numel() for parameter in decoder.parameters())
    assert counted.parameters - counted.active_parameters == 4 * 4 * of_one


def test_every_parameter_of_a_dense_model_is_active() -> None:
    counted = costs(gemma2(), 8).as_dict()
    assert counted["active_parameters"] == counted["parameters"]

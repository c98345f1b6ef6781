"""Costs against what was published, what torch counts, and a naive count."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from components.attention.heads import MHA, MQA
from components.attention.layer import mean_visible_keys
from components.attention.span import GlobalSpan, LocalSpan
from components.decoder import Decoder
from components.embedding import UntiedEmbedding
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

"""Both ends of the model: every factor at its place, and the loss on the logits' normaliser."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from components.decoder import Decoder
from components.embedding import Embedding, TiedEmbedding, UntiedEmbedding, logit_z_loss
from components.registry import OptionError
from components.softcap import FinalSoftcap, NoSoftcap
from tests.components.architectures import gemma2


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decoder(embedding: Embedding, **changes: Any) -> Decoder:
    return Decoder.initialized(gemma2(embedding=embedding, **changes), seed=0).double()


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({}, 1.0),
        ({"scaled": True}, math.sqrt(24)),
        ({"multiplier": 12.0}, 12.0),
        ({"scaled": True, "multiplier": 0.5}, math.sqrt(24) / 2),
    ],
)
def test_a_tokens_vector_is_its_row_times_the_factors(options: dict[str, Any], factor: float) -> None:
    table = decoder(TiedEmbedding(**options)).embedding
    tokens = torch.tensor([[3, 60, 3]])
    torch.testing.assert_close(table(tokens), table.weight[tokens] * factor)


@pytest.mark.parametrize("embedding", [TiedEmbedding, UntiedEmbedding])
def test_logits_are_projected_biased_scaled_and_then_capped(embedding: type[Embedding]) -> None:
    model = decoder(embedding(head_bias=True, logit_scale=0.25), softcap=FinalSoftcap(final=1.5))
    names = {name for name, _ in model.named_parameters() if name.startswith("head")}
    tied = embedding is TiedEmbedding
    assert names == ({"head.bias"} if tied else {"head.projection.weight", "head.projection.bias"})
    bias = model.get_parameter("head.bias" if tied else "head.projection.bias")
    assert not bias.any(), "a bias starts at nothing"
    with torch.no_grad():
        bias.copy_(noise(61))
    matrix = model.embedding.weight if tied else model.get_parameter("head.projection.weight")
    hidden = noise(2, 5, 24, seed=1)
    logits = (hidden @ matrix.T + noise(61)) * 0.25
    assert logits.abs().max() > 1.5
    torch.testing.assert_close(model.logits(hidden), 1.5 * torch.tanh(logits / 1.5))


def test_a_tied_head_gives_the_table_both_ends_gradients() -> None:
    model = decoder(TiedEmbedding(), softcap=NoSoftcap())
    model(torch.tensor([[1, 2, 3]])).square().sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    assert gradient[5:].any(), "rows that were not looked up learn as rows of the head"


def test_the_z_loss_is_the_mean_square_of_the_log_normaliser() -> None:
    logits = noise(2, 3, 61) * 4
    expected = sum(math.log(sum(math.exp(z) for z in row)) ** 2 for row in logits.flatten(0, 1).tolist()) / 6
    assert logit_z_loss(logits).item() == pytest.approx(expected)


def test_the_z_loss_of_bf16_logits_is_computed_in_fp32() -> None:
    logits = (noise(2, 3, 61) * 4).bfloat16()
    found = logit_z_loss(logits)
    assert found.dtype == torch.float32
    assert torch.equal(found, logit_z_loss(logits.float()))


def test_a_decoder_asks_for_the_z_loss_of_the_logits_that_it_returns() -> None:
    tokens = torch.tensor([[1, 2, 3, 4]])
    out = decoder(TiedEmbedding(z_loss=0.1, logit_scale=3.0)).outputs(tokens)
    assert set(out.losses) == {"z_loss"}
    torch.testing.assert_close(out.losses["z_loss"], 0.1 * out.logits.logsumexp(-1).square().mean())
    assert decoder(TiedEmbedding()).outputs(tokens).losses == {}


@pytest.mark.parametrize(
    "options", [{"multiplier": 0.0}, {"logit_scale": -1.0}, {"z_loss": -0.1}], ids=lambda options: next(iter(options))
)
def test_an_impossible_option_is_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(OptionError) as refusal:
        UntiedEmbedding(**options)  # type: ignore[arg-type]
    assert [refusal.value.option] == list(options)

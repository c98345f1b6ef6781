from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from components.loss import token_losses
from lab.training.data.validation import bits_per_byte, validation_loss
from lab.training.module import StepResult, step_seed

from .tiny import CONTEXT, VOCAB, TinyModel


def test_token_losses_are_cross_entropy_in_nats() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) * 5
    targets = torch.tensor([[0, 1, 2], [3, 4, 0]])
    by_definition = [
        -math.log(math.exp(logits[b, t, targets[b, t]]) / sum(math.exp(x) for x in logits[b, t]))
        for b in range(2)
        for t in range(3)
    ]
    assert token_losses(logits, targets).tolist() == pytest.approx(by_definition, rel=1e-5)


def test_the_loss_of_bf16_logits_is_computed_in_fp32() -> None:
    logits = torch.linspace(-3, 9, 7).repeat(1, 2, 1).bfloat16()
    targets = torch.tensor([[1, 5]])
    found = token_losses(logits, targets)
    assert found.dtype == torch.float32
    assert torch.equal(found, F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none"))
    in_bf16 = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").float()
    assert not torch.allclose(found, in_bf16, rtol=1e-4)


def test_uniform_logits_lose_the_logarithm_of_the_vocabulary() -> None:
    assert token_losses(torch.zeros(1, 1, 32), torch.zeros(1, 1, dtype=torch.int64)).item() == pytest.approx(
        math.log(32)
    )


def test_step_seeds_differ_by_seed_and_by_step() -> None:
    assert len({step_seed(seed, step) for seed in range(20) for step in range(20)}) == 400
    assert step_seed(3, 4) == step_seed(3, 4) < 2**63


@pytest.mark.parametrize(
    ("loss", "norm", "fault"),
    [
        (1.0, 2.0, None),
        (math.nan, 2.0, "the training loss is nan"),
        (math.inf, math.nan, "the training loss is inf"),
        (1.0, math.inf, "the gradient's norm is inf"),
    ],
)
def test_a_step_that_is_not_finite_says_what_is_not(loss: float, norm: float, fault: str | None) -> None:
    assert StepResult(loss=loss, grad_norm=norm, lr=0.1).fault == fault


def test_every_validation_token_counts_once_whatever_its_batch() -> None:
    model = TinyModel(dropout=0.5)
    tokens = torch.randint(0, VOCAB, (5, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    uneven = [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
    model.eval()
    expected = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    model.train()
    assert validation_loss(model, uneven, torch.device("cpu")) == pytest.approx(expected, rel=1e-6)
    assert model.training, "the mode must be left as it was"


def test_validation_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no validation batch"):
        validation_loss(TinyModel(), [], torch.device("cpu"))


def test_bits_per_byte_of_a_hand_computed_text() -> None:
    # 4 bits a token, and 10 tokens spell 25 bytes.
    assert bits_per_byte(4 * math.log(2), tokens=10, text_bytes=25) == pytest.approx(1.6)

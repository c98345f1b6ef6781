"""Losses that a model asks to be added to the cross-entropy: trained on, logged apart, and never validated on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.decoder import Decoder
from components.embedding import TiedEmbedding
from components.language_model import Output
from components.moe.experts import MixtureOfExperts
from lab.data.batches import Batches, validation_batches
from lab.training.fit import fit
from lab.training.optimizers.optimizer import Optimizer
from lab.training.optimizers.schedule import ConstantSchedule
from tests.components.architectures import gemma2

from . import tiny


class PlainDescent(Optimizer):
    """Steps of half the gradient."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.5)


class Penalized(tiny.TinyModel):
    """Asks for a penalty on its logits and, in `poison`, for one that is not finite from some pass on."""

    def __init__(self, poison: int | None = None) -> None:
        super().__init__()
        self.poison = poison

    def outputs(self, tokens: Tensor, documents: Tensor | None = None) -> Output:
        logits = self(tokens)
        factor = math.nan if self.poison is not None and self.passes >= self.poison else 0.25
        return Output(logits, {"size": factor * logits.square().mean(), "bias": logits.mean()})


def one_step(folder: Path, model: nn.Module, **train: Any) -> dict[str, Any]:
    plan = replace(
        tiny.procedure(steps=1, grad_clip=None, **train), optimizer=PlainDescent(), schedule=ConstantSchedule()
    )
    fit(model, tiny.TinyText(), plan, folder)
    return tiny.points(folder)[0]


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_step_descends_the_sum_and_logs_every_part(tmp_path: Path, micro_batch: int | None) -> None:
    by_hand = Penalized().double()
    inputs, targets = Batches(tiny.TinyText().train, tiny.CONTEXT, tiny.BATCH, seed=6).at(0)
    out = by_hand.outputs(inputs)
    loss = F.cross_entropy(out.logits.flatten(0, 1), targets.flatten())
    (loss + out.losses["size"] + out.losses["bias"]).backward()  # type: ignore[no-untyped-call]

    model = Penalized().double()
    point = one_step(tmp_path, model, micro_batch=micro_batch)

    for (name, start), actual in zip(by_hand.named_parameters(), model.parameters(), strict=True):
        assert start.grad is not None, name
        torch.testing.assert_close(actual, start - 0.5 * start.grad)
    assert point["train/loss"] == pytest.approx(loss.item())
    assert point["train/size"] == pytest.approx(out.losses["size"].item())
    assert point["train/bias"] == pytest.approx(out.losses["bias"].item())


def test_validation_and_the_summary_are_cross_entropy_alone(tmp_path: Path) -> None:
    model = Penalized()
    outcome = fit(model, tiny.TinyText(), tiny.procedure(steps=4), tmp_path)
    (batch,) = validation_batches(tiny.TinyText().validation, tiny.CONTEXT, 10, 10 * tiny.CONTEXT)
    inputs, targets = batch
    with torch.no_grad():
        expected = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    assert outcome.summary.metrics["val/loss"] == pytest.approx(expected.item(), rel=1e-5)
    points = [point for point in tiny.points(tmp_path) if "train/loss" in point]
    assert outcome.summary.metrics["train/loss"] == pytest.approx(points[-1]["train/loss"])
    assert {"train/size", "train/bias"} <= set(points[-1])


def test_a_step_whose_auxiliary_loss_is_not_finite_is_not_taken(tmp_path: Path) -> None:
    outcome = fit(Penalized(poison=3), tiny.TinyText(), tiny.procedure(), tmp_path)
    assert outcome.status == "diverged"
    assert outcome.reason == "the auxiliary loss size is nan at step 3, which was not taken"


def mixture() -> Decoder:
    moe = MixtureOfExperts(n_experts=4, top_k=2, d_ff=12, load_balance=0.1, router_z_loss=0.01)
    shape = gemma2(vocab_size=tiny.VOCAB, n_layers=2, mlp=moe, embedding=TiedEmbedding(z_loss=1e-3))
    return Decoder.initialized(shape, seed=0)


def test_a_mixture_of_experts_logs_its_losses_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    plan = tiny.procedure(steps=6)
    whole, parts = mixture(), mixture()
    fit(whole, tiny.TinyText(), plan, tmp_path / "whole")
    fit(parts, tiny.TinyText(), plan, tmp_path / "parts", stop=tiny.stop_after(3))
    parts = mixture()
    fit(parts, tiny.TinyText(), plan, tmp_path / "parts")
    assert tiny.same(tiny.weights(whole), tiny.weights(parts))
    assert tiny.timeless(tmp_path / "whole") == tiny.timeless(tmp_path / "parts")
    first = tiny.points(tmp_path / "whole")[0]
    # Two layers, each at least weight · top_k and near it while the router is new.
    assert 0.4 <= first["train/moe/load_balance"] < 0.8
    assert {"train/moe/router_z", "train/z_loss"} <= set(first)

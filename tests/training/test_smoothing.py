"""Label smoothing: its objective against torch's and against its formula, its loss against the plain one."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from components.registry import OptionError
from lab.data.batches import Batches
from lab.training.fit import fit
from lab.training.optimizers.schedule import ConstantSchedule
from lab.training.recipes.label_smoothing import LabelSmoothing
from lab.training.recipes.smoothing import LabelSmoothingModule

from . import tiny
from .test_fit import PlainDescent


@pytest.mark.parametrize("epsilon", [0.1, 0.6])
@pytest.mark.parametrize("micro_batch", [None, 1])
def test_a_step_descends_the_smoothed_cross_entropy(tmp_path: Path, epsilon: float, micro_batch: int | None) -> None:
    after = tiny.TinyModel().double()
    plan = replace(
        tiny.procedure(steps=1, grad_clip=None, micro_batch=micro_batch),
        optimizer=PlainDescent(),
        schedule=ConstantSchedule(),
    )
    fit(after, tiny.TinyText(), plan, tmp_path, module=functools.partial(LabelSmoothingModule, epsilon=epsilon))

    model = tiny.TinyModel().double()
    inputs, targets = Batches(tiny.TinyText().train, tiny.CONTEXT, tiny.BATCH, seed=6).at(0)
    logits = model(inputs).flatten(0, 1)
    torchs = F.cross_entropy(logits, targets.flatten(), label_smoothing=epsilon)
    torchs.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        expected = parameter.detach() - 0.5 * parameter.grad
        torch.testing.assert_close(after.state_dict()[name], expected, rtol=1e-10, atol=1e-12)

    by_hand = []
    for row, target in zip(logits.tolist(), targets.flatten().tolist(), strict=True):
        normalizer = math.log(math.fsum(map(math.exp, row)))
        share = [epsilon / tiny.VOCAB + (1 - epsilon) * (token == target) for token in range(tiny.VOCAB)]
        by_hand.append(-math.fsum(s * (value - normalizer) for s, value in zip(share, row, strict=True)))
    point = tiny.points(tmp_path)[0]
    plain = F.cross_entropy(logits, targets.flatten()).item()
    assert point["train/objective"] == pytest.approx(math.fsum(by_hand) / len(by_hand), rel=1e-5)
    assert point["train/objective"] == pytest.approx(torchs.item(), rel=1e-5)
    assert point["train/loss"] == pytest.approx(plain, rel=1e-5)
    assert abs(plain - torchs.item()) > 1e-3, "or the test shows nothing"


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.1])
def test_a_share_that_smooths_nothing_or_everything_is_refused(epsilon: float) -> None:
    with pytest.raises(OptionError, match=r"must lie between 0 and 1, got .*; with none, recipe=next_token"):
        LabelSmoothing(epsilon=epsilon)

"""Distillation: its loss against its formula, its step against the loss, its run against a kill."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.data.batches import Batches
from lab.training.checkpoints import verified
from lab.training.data.documents import document_ids
from lab.training.fit import fit
from lab.training.optimizers.schedule import ConstantSchedule
from lab.training.recipes.student import soft_losses

from . import student, tiny
from .test_fit import PlainDescent


def logits(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """[2, 3, 5], far enough from flat for a wrong temperature to show."""
    return 3 * torch.randn(2, 3, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_the_soft_loss_is_its_formula(temperature: float) -> None:
    def softmax(row: list[float]) -> list[float]:
        powers = [math.exp(value / temperature) for value in row]
        return [power / math.fsum(powers) for power in powers]

    expected, divergence = [], []
    for mine, theirs in zip(logits(0).flatten(0, 1).tolist(), logits(1).flatten(0, 1).tolist(), strict=True):
        q, p = softmax(mine), softmax(theirs)
        expected.append(-math.fsum(a * math.log(b) for a, b in zip(p, q, strict=True)))
        divergence.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    soft, kl = soft_losses(logits(0), logits(1), temperature)
    assert soft.tolist() == pytest.approx(expected, rel=1e-12)
    assert kl.tolist() == pytest.approx(divergence, rel=1e-9)
    assert min(divergence) > 0.01


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_divergence_and_its_gradient_are_torchs(temperature: float) -> None:
    mine, theirs = logits(0).requires_grad_(), logits(0).requires_grad_()
    soft, kl = soft_losses(mine, logits(1), temperature)
    p = (logits(1) / temperature).softmax(-1).flatten(0, 1)
    expected = nn.KLDivLoss(reduction="batchmean")((theirs / temperature).log_softmax(-1).flatten(0, 1), p)
    torch.testing.assert_close(kl.mean(), expected)
    soft.mean().backward()
    expected.backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    # By hand: (q - p) / T for each token.
    by_hand = ((logits(0) / temperature).softmax(-1) - (logits(1) / temperature).softmax(-1)) / temperature
    torch.testing.assert_close(mine.grad, by_hand / 6)


def test_a_teacher_sure_of_the_targets_is_the_text() -> None:
    targets = torch.tensor([[0, 4, 2], [1, 1, 3]])
    sure = torch.full((2, 3, 5), -1e4, dtype=torch.float64).scatter(2, targets[..., None], 1e4)
    soft, kl = soft_losses(logits(0), sure)
    assert torch.allclose(soft, F.cross_entropy(logits(0).flatten(0, 1), targets.flatten(), reduction="none"))
    assert torch.equal(soft, kl), "a teacher that is sure has no entropy"


def test_a_student_that_is_its_teacher_has_no_divergence_and_no_gradient() -> None:
    mine = logits(0, torch.float32).requires_grad_()
    soft, kl = soft_losses(mine, logits(0, torch.float32))
    assert kl.abs().max() < 1e-5
    soft.sum().backward()
    assert mine.grad is not None
    assert mine.grad.abs().max() < 1e-6


def test_losses_are_computed_in_fp32_whatever_the_logits_are_in() -> None:
    soft, kl = soft_losses(logits(0).bfloat16(), logits(1).bfloat16())
    assert soft.dtype == kl.dtype == torch.float32
    exact, _ = soft_losses(logits(0).bfloat16().double(), logits(1).bfloat16().double())
    torch.testing.assert_close(soft.double(), exact, rtol=1e-5, atol=1e-5)


def one_step(folder: Path, options: dict[str, float], **train: Any) -> tuple[tiny.TinyModel, dict[str, Any]]:
    """A model in fp64 after one step of plain descent at a rate of 0.5, and the point that was recorded."""
    model = tiny.TinyModel().double()
    plan = replace(
        tiny.procedure(steps=1, grad_clip=None, **train), optimizer=PlainDescent(), schedule=ConstantSchedule()
    )
    module = student.distilled(student.teacher(student.Confident().double()), **options)
    fit(model, tiny.TinyText(), plan, folder, module=module)
    return model, tiny.points(folder)[0]


@pytest.mark.parametrize("micro_batch", [None, 1])
@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.0), (2.0, 0.0), (1.0, 0.3), (0.5, 0.9)])
def test_a_step_descends_the_objective(
    tmp_path: Path, temperature: float, weight: float, micro_batch: int | None
) -> None:
    options = {"temperature": temperature, "hard_label_weight": weight}
    after, point = one_step(tmp_path, options, micro_batch=micro_batch)
    model, given = tiny.TinyModel().double(), student.Confident().double().eval()
    inputs, targets = Batches(tiny.TinyText().train, tiny.CONTEXT, tiny.BATCH, seed=6).at(0)
    mine, theirs = model(inputs), given(inputs).detach()
    hard = F.cross_entropy(mine.flatten(0, 1), targets.flatten())
    p = (theirs / temperature).softmax(-1)
    soft = -(p * (mine / temperature).log_softmax(-1)).sum(-1).mean()
    entropy = -(p * p.log()).sum(-1).mean()
    objective = (1 - weight) * temperature**2 * soft + weight * hard
    objective.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        expected = parameter.detach() - 0.5 * parameter.grad
        torch.testing.assert_close(after.state_dict()[name], expected, rtol=1e-10, atol=1e-12)
    found = [point[f"train/{name}"] for name in ("loss", "soft_loss", "kl", "objective")]
    assert found == pytest.approx([value.item() for value in (hard, soft, soft - entropy, objective)], rel=1e-5)


@pytest.mark.parametrize(("weight", "matters"), [(0.0, False), (0.1, True)])
def test_the_texts_tokens_teach_only_by_their_weight(weight: float, matters: bool) -> None:
    plan = tiny.procedure()
    parts = {"train": plan.train, "optimizer": plan.optimizer, "schedule": plan.schedule, "seed": 0}
    module: Any = student.distilled(hard_label_weight=weight)(tiny.TinyModel(), **parts)
    inputs, targets = Batches(tiny.TinyText().train, tiny.CONTEXT, tiny.BATCH, seed=6).at(0)
    given = module.model(inputs)
    mine, others = (module._losses(inputs, each, given) for each in (targets, (targets + 1) % tiny.VOCAB))
    assert mine.next_token != others.next_token
    assert torch.equal(mine.objective, others.objective) != matters


def test_the_teacher_is_in_evaluation_mode_and_stays_as_it_was(tmp_path: Path) -> None:
    given = student.teacher()
    before = tiny.weights(given.model)
    model = tiny.TinyModel()
    outcome = fit(model, tiny.TinyText(), tiny.procedure(), tmp_path, module=student.distilled(given))
    assert tiny.same(tiny.weights(given.model), before)
    assert not given.model.training
    assert given.model.passes == 0
    assert all(parameter.grad is None for parameter in given.model.parameters())
    assert outcome.summary.costs["parameters"] == sum(p.numel() for p in model.parameters())
    newest = verified.newest(tmp_path)
    assert newest is not None
    assert set(verified.weights_at(newest)) == set(model.state_dict())


def test_the_teacher_sees_the_students_documents(tmp_path: Path) -> None:
    class Packed(tiny.TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.documents: list[Tensor] = []

        def forward(self, tokens: Tensor, documents: Tensor) -> Tensor:  # type: ignore[override]
            self.documents.append(documents)
            return super().forward(tokens)

    class PackedText(tiny.TinyText):
        separator = 3

    given, model = Packed(), Packed()
    plan = tiny.procedure(steps=3, mask_documents=True, micro_batch=2)
    fit(model, PackedText(), plan, tmp_path, module=student.distilled(student.teacher(given)))
    inputs, _ = Batches(PackedText().train, tiny.CONTEXT, tiny.BATCH, seed=6).at(0)
    assert torch.equal(torch.cat(given.documents[:2]), document_ids(inputs, 3))
    assert all(torch.equal(a, b) for a, b in zip(given.documents, model.documents[:6], strict=True))
    assert inputs.eq(3).any(), "or the test shows nothing"


def test_a_student_comes_nearer_to_a_fixed_distribution_than_a_plain_model(tmp_path: Path) -> None:
    class Fixed(tiny.TinyModel):
        def forward(self, tokens: Tensor) -> Tensor:
            return 2 * torch.sin(torch.arange(tiny.VOCAB)).expand(*tokens.shape, -1)

    def divergence(model: nn.Module) -> float:
        inputs, _ = Batches(tiny.TinyText().validation, tiny.CONTEXT, tiny.BATCH, seed=0).at(0)
        with torch.no_grad():
            return soft_losses(model.eval()(inputs), Fixed()(inputs))[1].mean().item()

    distilled, plain = tiny.TinyModel(), tiny.TinyModel()
    plan = replace(tiny.procedure(steps=150), optimizer=PlainDescent())
    start = divergence(tiny.TinyModel())
    fit(distilled, tiny.TinyText(), plan, tmp_path / "a", module=student.distilled(student.teacher(Fixed())))
    fit(plain, tiny.TinyText(), plan, tmp_path / "b")
    assert divergence(distilled) < 0.05 < start < divergence(plain)
    recorded = [point["train/kl"] for point in tiny.points(tmp_path / "a") if "train/kl" in point]
    assert recorded[-1] < 0.05 < recorded[0]


def test_validation_is_the_students_on_the_text(tmp_path: Path) -> None:
    from lab.data.batches import validation_batches
    from lab.training.data.validation import validation_loss

    model, text = tiny.TinyModel(), tiny.TinyText()
    outcome = fit(model, text, tiny.procedure(), tmp_path, module=student.distilled(temperature=3.0))
    held_out = validation_batches(text.validation, tiny.CONTEXT, tiny.BATCH, 10 * tiny.CONTEXT)
    assert outcome.summary.metrics["val/loss"] == validation_loss(model, held_out, torch.device("cpu"))
    assert outcome.summary.as_json()["teacher"] == {
        "identity": "e" * 64,
        "run": "school/big/seed-0",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "val/loss": 1.25,
        "data": "d",
    }


def test_a_teacher_that_is_not_finite_ends_the_run_as_diverged(tmp_path: Path) -> None:
    broken = tiny.TinyModel(fault=lambda logits, passes: logits * math.nan)
    outcome = fit(
        tiny.TinyModel(), tiny.TinyText(), tiny.procedure(), tmp_path, module=student.distilled(student.teacher(broken))
    )
    assert outcome.status == "diverged"
    assert outcome.reason == "soft_loss is nan at step 1, which was not taken"


def test_a_killed_student_ends_with_the_weights_and_curves_of_an_uninterrupted_one(tmp_path: Path) -> None:
    reference, resumed = tmp_path / "reference", tmp_path / "resumed"
    _, expected = student.run(reference)

    command = [sys.executable, "-m", "tests.training.student", str(resumed), "9"]
    metrics = resumed / "metrics.jsonl"
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, env=os.environ, cwd=root, stderr=subprocess.PIPE, text=True) as victim:
        try:
            while not metrics.exists() or '"step": 9,' not in metrics.read_text():
                assert victim.poll() is None, victim.stderr and victim.stderr.read()
                time.sleep(0.02)
        finally:
            victim.kill()
    newest = verified.newest(resumed)
    assert newest is not None
    assert verified.step_of(newest) == 8, "the run must have got further than its last checkpoint"
    outcome, actual = student.run(resumed)

    assert outcome.status == "finished"
    assert tiny.same(actual, expected)
    assert tiny.timeless(resumed) == tiny.timeless(reference)
    assert outcome.summary.as_json()["teacher"]["identity"] == "e" * 64

"""Few of a teacher's tokens: the losses against their formulas, the draws against their probabilities."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.registry import OptionError
from lab.data.batches import Batches
from lab.training.fit import fit
from lab.training.optimizers.schedule import ConstantSchedule
from lab.training.recipes.distillation import Distillation
from lab.training.recipes.student import soft_losses
from lab.training.recipes.target_options import Targets, bytes_per_token
from lab.training.recipes.targets import TargetSelection, TeacherTargets

from . import student, tiny
from .test_fit import PlainDescent

V = 6
FORMS: tuple[Targets, ...] = ("top_k", "sampled", "sampled_renormalized")


def logits(seed: int, scale: float = 2.0) -> Tensor:
    """[2, 3, V] in fp64, far from flat."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, 3, V, dtype=torch.float64, generator=generator)


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / math.fsum(powers) for power in powers]


def weights(few: TeacherTargets, temperature: float) -> Tensor:
    """The distribution that a student is given, over the whole vocabulary: from the definitions, token by token."""
    dense = torch.zeros(*few.tokens.shape[:2], V, dtype=torch.float64)
    for b, t in itertools.product(range(dense.shape[0]), range(dense.shape[1])):
        ids = few.tokens[b, t].tolist()
        count = [1 / len(ids)] * len(ids) if few.logits is None else softmax(few.logits[b, t].tolist(), temperature)
        for token, weight in zip(ids, count, strict=True):
            dense[b, t, token] += weight
    return dense


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("form", FORMS)
def test_the_loss_and_its_gradient_are_their_formulas(form: Targets, temperature: float) -> None:
    selection = TargetSelection(form, 4, temperature)
    few = selection.select(logits(1), seed=0, step=0, first=0)
    mine = logits(0).requires_grad_()
    soft, _ = selection.losses(mine, few)
    w = weights(few, temperature)
    expected = [
        -math.fsum(weight * math.log(q) for weight, q in zip(given, softmax(row, temperature), strict=True))
        for given, row in zip(w.flatten(0, 1).tolist(), logits(0).flatten(0, 1).tolist(), strict=True)
    ]
    assert soft.tolist() == pytest.approx(expected, rel=1e-12)
    soft.sum().backward()
    torch.testing.assert_close(mine.grad, ((logits(0) / temperature).softmax(-1) - w) / temperature)


def test_top_k_are_the_likeliest_renormalized() -> None:
    few = TargetSelection("top_k", 2).select(logits(1), seed=0, step=0, first=0)
    for row, ids in zip(logits(1).flatten(0, 1).tolist(), few.tokens.flatten(0, 1).tolist(), strict=True):
        assert sorted(ids) == sorted(sorted(range(V), key=lambda token: row[token])[-2:])
    p = logits(1).softmax(-1)
    kept = p * weights(few, 1.0).gt(0)
    torch.testing.assert_close(weights(few, 1.0), kept / kept.sum(-1, keepdim=True))


@pytest.mark.parametrize("form", ["top_k", "sampled_renormalized"])
def test_all_tokens_renormalized_are_the_full_distribution(form: Targets) -> None:
    selection = TargetSelection(form, V, 2.0)
    found = selection.losses(logits(0), selection.select(logits(1), seed=0, step=0, first=0))
    for few, full in zip(found, soft_losses(logits(0), logits(1), 2.0), strict=True):
        torch.testing.assert_close(few, full)


DRAWS = 20_000
SHAPE = (100, 200)


@pytest.mark.parametrize(("form", "k"), [("sampled", 3), ("sampled_renormalized", 1)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sampled_targets_are_unbiased(form: Targets, k: int, temperature: float) -> None:
    theirs, row = logits(1)[:1, :1], logits(0)[:1, :1]
    mine = row.expand(*SHAPE, V).clone().requires_grad_()
    selection = TargetSelection(form, k, temperature)
    few = selection.select(theirs.expand(*SHAPE, V), seed=0, step=0, first=0)
    soft, kl = selection.losses(mine, few)
    soft.mean().backward()
    assert mine.grad is not None

    p, q = ((each / temperature).softmax(-1).flatten() for each in (theirs, row))
    full, divergence = soft_losses(row, theirs, temperature)
    error = ((p * q.log().square()).sum() - full.square()).div(DRAWS * k).sqrt().item()
    assert abs(soft.mean().item() - full.item()) < 4 * error
    if form == "sampled":
        assert abs(kl.mean().item() - divergence.item()) < 4 * error
    errors = (p * (1 - p) / (DRAWS * k)).sqrt() / temperature
    assert ((mine.grad.sum((0, 1)) - (q - p) / temperature).abs() < 4.5 * errors).all()

    top = TargetSelection("top_k", 3, temperature)
    biased, _ = top.losses(row, top.select(theirs, seed=0, step=0, first=0))
    assert abs(biased.item() - full.item()) > 10 * error, "or what is biased would pass too"


def test_draws_without_replacement_are_those_of_an_urn() -> None:
    theirs = torch.tensor([0.5, 0.25, 0.15, 0.1]).log().double()
    few = TargetSelection("sampled_renormalized", 2).select(theirs.expand(*SHAPE, 4), seed=3, step=0, first=0)
    p = theirs.exp().tolist()
    for a, b in itertools.combinations(range(4), 2):
        expected = p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b])
        found = few.tokens.sort(-1).values.eq(torch.tensor([a, b])).all(-1).float().mean().item()
        assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / DRAWS)


@pytest.mark.parametrize("form", ["sampled", "sampled_renormalized"])
def test_draws_are_addressed_by_seed_step_and_sequence(form: Targets) -> None:
    theirs = torch.randn(1, 5, 50, generator=torch.Generator().manual_seed(0)).expand(4, 5, 50)
    selection = TargetSelection(form, 8)
    state = torch.get_rng_state()
    whole = selection.select(theirs, seed=1, step=2, first=0)
    assert torch.equal(torch.get_rng_state(), state), "what the model draws is left as it was"
    halves = [selection.select(theirs[:2], seed=1, step=2, first=first) for first in (0, 2)]
    assert torch.equal(TeacherTargets.concatenate(halves).tokens, whole.tokens)
    assert torch.equal(whole.rows(1, 2).tokens, whole.tokens[1:3])
    others = [selection.select(theirs[:1], seed=seed, step=step, first=0) for seed, step in ((9, 2), (1, 3))]
    found = [*whole.tokens, *(other.tokens[0] for other in others)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(found, 2))


def test_what_cannot_be_is_never_drawn() -> None:
    theirs = torch.full((1, 2000, V), -math.inf)
    theirs[..., 2] = theirs[..., 4] = 0.0
    few = TargetSelection("sampled", 5).select(theirs, seed=0, step=0, first=0)
    assert few.tokens.unique().tolist() == [2, 4]


@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_that_is_not_finite_shows_in_the_loss(form: Targets) -> None:
    selection = TargetSelection(form, 3)
    few = selection.select(torch.full((2, 3, V), math.nan), seed=0, step=0, first=0)
    assert few.tokens.lt(V).all()
    assert not selection.losses(logits(0), few)[1].isfinite().any()


@pytest.mark.parametrize("micro_batch", [None, 1])
@pytest.mark.parametrize("form", FORMS)
def test_a_step_descends_the_objective(tmp_path: Path, form: Targets, micro_batch: int | None) -> None:
    temperature, weight, selection = 2.0, 0.3, TargetSelection(form, 5, 2.0)
    after = tiny.TinyModel().double()
    plan = replace(
        tiny.procedure(steps=1, grad_clip=None, micro_batch=micro_batch),
        optimizer=PlainDescent(),
        schedule=ConstantSchedule(),
    )
    options: dict[str, Any] = {"temperature": temperature, "hard_label_weight": weight, "selection": selection}
    module = student.distilled(student.teacher(student.Confident().double()), **options)
    fit(after, tiny.TinyText(), plan, tmp_path, module=module)

    model, given = tiny.TinyModel().double(), student.Confident().double().eval()
    inputs, targets = Batches(tiny.TinyText().train, tiny.CONTEXT, tiny.BATCH, seed=6).at(0)
    mine = model(inputs)
    few = selection.select(given(inputs).detach(), seed=plan.seed, step=0, first=0)
    p = torch.zeros_like(mine)
    w = torch.full_like(few.tokens, 1, dtype=torch.float64) / 5
    w = w if few.logits is None else (few.logits / temperature).softmax(-1)
    p.scatter_add_(-1, few.tokens, w)
    log_q = (mine / temperature).log_softmax(-1)
    hard = torch.nn.functional.cross_entropy(mine.flatten(0, 1), targets.flatten())
    soft = -(p * log_q).sum(-1).mean()
    objective = (1 - weight) * temperature**2 * soft + weight * hard
    objective.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        expected = parameter.detach() - 0.5 * parameter.grad
        torch.testing.assert_close(after.state_dict()[name], expected, rtol=1e-10, atol=1e-12)
    point = tiny.points(tmp_path)[0]
    found = [point[f"train/{name}"] for name in ("loss", "soft_loss", "objective")]
    assert found == pytest.approx([value.item() for value in (hard, soft, objective)], rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_student_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, form: Targets) -> None:
    def run(folder: Path, **options: Any) -> dict[str, Tensor]:
        model = tiny.TinyModel(dropout=0.3)
        module = student.distilled(selection=TargetSelection(form, 4))
        fit(model, tiny.TinyText(), tiny.procedure(10, micro_batch=2), folder, module=module, **options)
        return tiny.weights(model)

    expected = run(tmp_path / "whole")
    half = run(tmp_path / "stopped", stop=tiny.stop_after(6))
    assert not tiny.same(half, expected)
    assert tiny.same(run(tmp_path / "stopped"), expected)
    assert tiny.timeless(tmp_path / "stopped") == tiny.timeless(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "at", "message"),
    [
        ({"k": 16}, "k", "16 has no effect on full targets; choose recipe.targets=top_k or sampled"),
        ({"k": 0, "targets": "top_k"}, "k", "must be at least 1, got 0"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], at: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as refused:
        Distillation(teacher="x", **options)
    assert refused.value.option == at


def test_k_is_gemmas_unless_it_is_given() -> None:
    assert Distillation(teacher="x").n_targets is None
    assert Distillation(teacher="x", targets="sampled").n_targets == 256
    assert Distillation(teacher="x", targets="sampled", k=8).n_targets == 8
    assert bytes_per_token("top_k", 256, 256_000) == 2048
    assert bytes_per_token("top_k", 256, 50_000) == 1536
    assert bytes_per_token("sampled", 256, 50_000) == 516

"""The fused cross-entropy against the plain form in fp64."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.fused.piece import naive
from components.loss import Head, chunked
from components.softcap import softcap
from tests.fused.pieces import distance, needs_library, noise

pytestmark = needs_library

CASES: list[dict[str, Any]] = [
    {},
    {"cap": 30.0},
    {"cap": 2.0, "scale": 1.7, "bias": True, "z_loss": 0.1},
    {"cap": 400.0, "scale": 3.0},  # too high to do without a maximum
    {"scale": 0.5, "bias": True},
    {"z_loss": 0.3, "scale": 20.0},
]


def losses(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, rows: int | None, **case: Any
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Objective, losses, mean square of the normalizer, gradients: by chunks of rows, or without, by the plain form."""
    leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
    if case.get("bias"):
        leaves.append(noise(len(weight), seed=7).to(weight.dtype).requires_grad_())
    bias = leaves[2] if case.get("bias") else None
    scale, cap, z_loss = case.get("scale", 1.0), case.get("cap"), case.get("z_loss", 0.0)
    if rows is None:
        logits = softcap(F.linear(leaves[0], leaves[1], bias) * scale, cap)
        each, square = F.cross_entropy(logits, targets, reduction="none"), logits.logsumexp(-1).square().mean()
        objective = each.mean() + z_loss * square
    else:
        objective, each, square = chunked(leaves[0], Head(leaves[1], bias, scale, cap), targets, rows, z_loss)
    return objective, each.detach(), square.detach(), list(torch.autograd.grad(3 * objective, leaves))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("n", "vocab", "rows"), [(1, 1, 1), (37, 300, 8), (5, 4001, 5)])
def test_losses_and_gradients_are_those_of_the_plain_form(n: int, vocab: int, rows: int, case: dict[str, Any]) -> None:
    hidden, weight = 2 * noise(n, 16), noise(vocab, 16, seed=1)
    targets = torch.arange(n) * 97 % vocab
    objective, each, square, gradients = losses(hidden, weight, targets, rows=rows, **case)
    exact = losses(hidden.double(), weight.double(), targets, rows=None, **case)
    assert objective.item() == pytest.approx(exact[0].item(), rel=2e-6, abs=2e-6)
    assert square.item() == pytest.approx(exact[2].item(), rel=4e-6)
    assert distance(each, exact[1]) < 4e-6
    for gradient, reference in zip(gradients, exact[3], strict=True):
        assert (gradient - reference).abs().max() < 1e-5 * reference.abs().max() + 1e-6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_under_autocast_it_is_no_farther_from_the_truth_than_the_naive_form(case: dict[str, Any]) -> None:
    hidden, weight, targets = noise(50, 32), noise(700, 32, seed=1), torch.arange(50) * 13 % 700
    exact = losses(hidden.double(), weight.double(), targets, rows=None, **case)
    errors = []
    for is_naive in (False, True):
        with torch.autocast("cpu", torch.bfloat16), naive("cross_entropy") if is_naive else nullcontext():
            objective, _, _, gradients = losses(hidden, weight, targets, rows=16, **case)
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        errors.append([distance(objective[None], exact[0][None]), *map(distance, gradients, exact[3])])
    assert all(ours < 1.3 * theirs + 1e-4 for ours, theirs in zip(*errors, strict=True))


@pytest.mark.parametrize("cap", [None, 30.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_come_out_as_in_the_naive_form(value: float, cap: float | None) -> None:
    hidden, weight, targets = noise(6, 8), noise(50, 8, seed=1), torch.arange(6)
    hidden[2, 3] = value
    results = []
    for is_naive in (False, True):
        with naive("cross_entropy") if is_naive else nullcontext():
            results.append(losses(hidden, weight, targets, rows=4, cap=cap))
    for ours, theirs in zip(
        results[0][1:2] + tuple(results[0][3]), results[1][1:2] + tuple(results[1][3]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-4, atol=1e-5)


def test_evaluation_gives_the_same_losses_and_leaves_no_gradient() -> None:
    hidden, weight, targets = noise(40, 8), noise(300, 8, seed=1), torch.arange(40)
    trained = chunked(hidden.clone().requires_grad_(), Head(weight, cap=20.0), targets, 16)
    with torch.no_grad():
        evaluated = chunked(hidden, Head(weight, cap=20.0), targets, 16)
    assert torch.equal(trained[1], evaluated[1])
    assert not evaluated[0].requires_grad


def test_the_bits_are_the_same_in_one_and_two_threads() -> None:
    hidden, weight, targets = noise(64, 8), noise(500, 8, seed=1), torch.arange(64)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            _, each, square, gradients = losses(hidden, weight, targets, rows=64, cap=30.0)
            results.append((each, square, *gradients))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)

"""The chunked loss is the plain one, its gradients too, and never holds all logits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from components.decoder import Decoder
from components.embedding import TiedEmbedding, UntiedEmbedding, logit_z_loss
from components.loss import Head, chunked, rows_at_once, token_losses
from components.softcap import NoSoftcap, softcap
from tests.components.architectures import gemma2

N, V, D = 13, 29, 6


def inputs(dtype: torch.dtype = torch.float64, *, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Hidden states, weight, bias and targets, large enough for a cap of 3 to bite."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    targets = torch.randint(0, V, (N,), generator=generator)
    return draw(N, D), draw(V, D), draw(V) if bias else None, targets


def by_definition(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, cap: float | None, z: float
) -> tuple[Tensor, Tensor]:
    """Objective and losses from all logits."""
    logits = hidden @ weight.mT
    logits = softcap((logits if bias is None else logits + bias) * scale, cap)
    losses = logits.logsumexp(-1) - logits[torch.arange(len(targets)), targets]
    return losses.mean() + z * logits.logsumexp(-1).square().mean(), losses


@pytest.mark.parametrize("rows", [1, 4, 13, 64])
@pytest.mark.parametrize("cap", [None, 3.0, 500.0])
@pytest.mark.parametrize("z", [0.0, 0.3])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_all_logits(rows: int, cap: float | None, z: float, bias: bool) -> None:
    tensors = inputs(bias=bias)
    leaves = [x for x in tensors[:3] if x is not None]
    expected, losses = by_definition(*tensors, 1.7, cap, z)
    wanted = torch.autograd.grad(expected, leaves)
    hidden, weight, b, targets = tensors
    objective, found, square = chunked(hidden, Head(weight, b, 1.7, cap), targets, rows, z)
    torch.testing.assert_close(objective, expected)
    torch.testing.assert_close(found, losses)
    assert objective.item() == pytest.approx(found.mean().item() + z * square.item())
    for ours, theirs in zip(torch.autograd.grad(objective * 2.5, leaves), wanted, strict=True):
        torch.testing.assert_close(ours, 2.5 * theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("cap", "z"), [(None, 0.0), (3.0, 0.2)])
def test_gradients_pass_gradcheck(cap: float | None, z: float) -> None:
    hidden, weight, bias, targets = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w, b: chunked(h, Head(w, b, 0.5, cap), targets, 5, z)[0], (hidden, weight, bias)
    )


def test_large_logits_neither_overflow_nor_vanish() -> None:
    hidden, weight, _, targets = inputs(torch.float32, bias=False)
    objective, losses, _ = chunked(hidden * 1000, Head(weight), targets, 4)
    _, of_each = by_definition(hidden.double() * 1000, weight.double(), None, targets, 1.0, None, 0.0)
    assert of_each.max() > 100
    torch.testing.assert_close(losses.double(), of_each, rtol=1e-5, atol=1e-2)
    assert torch.isfinite(torch.autograd.grad(objective, weight)[0]).all()


def test_only_what_is_asked_for_gets_a_gradient_and_a_second_backward_pass_the_same() -> None:
    hidden, weight, bias, targets = inputs()
    objective = chunked(hidden, Head(weight.detach(), bias), targets, 5)[0]
    first = torch.autograd.grad(objective, hidden, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(objective, hidden)[0], first)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(chunked(hidden, Head(weight, bias), targets, 5)[0], hidden, create_graph=True)


def test_the_same_inputs_give_the_same_bits() -> None:
    def once() -> list[Tensor]:
        hidden, weight, bias, targets = inputs(torch.float32)
        objective = chunked(hidden, Head(weight, bias, cap=3.0), targets, 4, 0.1)[0]
        return [objective.detach(), *torch.autograd.grad(objective, (hidden, weight, bias))]

    assert all(torch.equal(x, y) for x, y in zip(once(), once(), strict=True))


@pytest.mark.parametrize("embedding", [TiedEmbedding, UntiedEmbedding])
@pytest.mark.parametrize("z", [0.0, 0.05])
def test_a_decoder_trains_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch, embedding: Any, z: float) -> None:
    shape = gemma2(embedding=embedding(head_bias=True, logit_scale=1.5, z_loss=z))
    model = Decoder.initialized(shape, seed=0).double()
    tokens = torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(1))
    targets = tokens.roll(-1, 1)
    found = {}
    for rows in (None, 5):
        monkeypatch.setattr("components.decoder.rows_at_once", lambda *_, rows=rows: rows)
        losses = model.losses(tokens, targets=targets)
        model.zero_grad()
        losses.objective.backward()
        found[rows] = (losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        with torch.no_grad():
            torch.testing.assert_close(model.losses(tokens, targets=targets).next_token, losses.next_token)
    plain, ours = found[None], found[5]
    torch.testing.assert_close(ours[0].next_token, plain[0].next_token.detach())
    torch.testing.assert_close(ours[0].objective, plain[0].objective)
    assert ours[0].auxiliary.keys() == plain[0].auxiliary.keys() == ({"z_loss"} if z else set())
    assert ours[1].keys() == plain[1].keys() == dict(model.named_parameters()).keys()
    for name in plain[1]:
        torch.testing.assert_close(ours[1][name], plain[1][name], rtol=1e-9, atol=1e-12, msg=name)
    logits = model(tokens)
    torch.testing.assert_close(ours[0].next_token, token_losses(logits, targets).detach())
    if z:
        torch.testing.assert_close(ours[0].auxiliary["z_loss"], z * logit_z_loss(logits).detach())


def test_under_autocast_it_is_as_near_to_the_truth_as_the_plain_form() -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(64, 32, generator=generator, requires_grad=True)
    weight = (torch.randn(500, 32, generator=generator) * 0.3).requires_grad_()
    targets = torch.randint(0, 500, (64,), generator=generator)
    exact = by_definition(hidden.double(), weight.double(), None, targets, 1.0, 5.0, 0.0)[0]
    true = torch.autograd.grad(exact, (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        plain = token_losses(softcap(torch.nn.functional.linear(hidden, weight), 5.0)[None], targets[None]).mean()
        ours = chunked(hidden, Head(weight, cap=5.0), targets, 16)[0]
    assert ours.dtype == torch.float32
    assert abs(ours - exact) <= abs(plain - exact) + 1e-3
    for of_ours, of_plain, of_truth in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(plain, (hidden, weight)), true, strict=True
    ):
        assert of_ours.dtype == torch.float32
        assert (of_ours - of_truth).norm() <= 1.1 * (of_plain - of_truth).norm()


def most_memory(of: Callable[[], object]) -> int:
    """Most bytes that tensors made by a call take at a time, as torch's allocator counts them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        of()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def test_its_peak_of_memory_is_under_a_tenth_of_the_plain_forms() -> None:
    tokens, vocab, width, rows = 1024, 16_384, 16, 32
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, width, generator=generator, requires_grad=True)
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    logits = 4 * tokens * vocab

    def plain() -> None:
        all_of_them = softcap(torch.nn.functional.linear(hidden, weight), 30.0)
        token_losses(all_of_them[None], targets[None]).mean().backward()

    naive = most_memory(plain)
    hidden.grad = weight.grad = None
    ours = most_memory(lambda: chunked(hidden, Head(weight, cap=30.0), targets, rows)[0].backward())
    assert naive > 3.9 * logits
    assert ours < naive / 10
    # Two buffers of a chunk's logits, the gradients, and little else.
    assert ours < 2.1 * logits * rows / tokens + 4 * (weight.numel() + 2 * hidden.numel())


def test_the_choice_depends_on_shapes_alone_and_bounds_memory() -> None:
    assert rows_at_once(256, 257, "cpu") is None
    assert rows_at_once(4096, 256_000, "cpu") == 256
    for tokens, vocab in ((4096, 1024), (100_000, 32_000), (2048, 256_000)):
        rows = rows_at_once(tokens, vocab, "cpu")
        assert rows is not None
        assert rows * vocab <= max(1 << 20, 256 * vocab)


def test_a_run_says_which_form_its_loss_has() -> None:
    model = Decoder(gemma2(vocab_size=50_000, softcap=NoSoftcap()))
    assert model.loss_form(4096, "cpu") == "chunks of 256 rows"
    assert model.loss_form(4, "cpu") == "plain"

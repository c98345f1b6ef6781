"""Batches: every window once an epoch, and nothing but (seed, step) decides which comes when."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lab.data.batches import Batches, validation_batches

TOKENS = np.random.default_rng(0).integers(0, 60_000, 1000).astype(np.uint16)


def naive(tokens: np.ndarray, context: int, window: int) -> tuple[list[int], list[int]]:
    start = window * context
    return (
        [int(tokens[start + i]) for i in range(context)],
        [int(tokens[start + i + 1]) for i in range(context)],
    )


@pytest.mark.parametrize(("context", "batch_size"), [(16, 4), (7, 5), (1, 3), (999, 2)])
def test_batches_are_the_slices_that_a_plain_loop_cuts(context: int, batch_size: int) -> None:
    batches = Batches(TOKENS, context, batch_size, seed=3)
    for step in range(4):
        inputs, targets = batches.at(step)
        for row, window in enumerate(batches.windows_at(step)):
            assert (inputs[row].tolist(), targets[row].tolist()) == naive(TOKENS, context, window)


def test_tensors_are_int64_contiguous_and_independent_of_the_tokens() -> None:
    tokens = TOKENS.copy()
    inputs, targets = Batches(tokens, 16, 4, seed=0).at(0)
    assert inputs.shape == targets.shape == (4, 16)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.is_contiguous()
    assert targets.is_contiguous()
    before = targets.clone()
    inputs.zero_()
    assert torch.equal(targets, before)
    assert np.array_equal(tokens, TOKENS)


@pytest.mark.parametrize("n_tokens", [17, 32, 33, 34, 100])
def test_the_last_window_needs_one_token_more_than_its_inputs(n_tokens: int) -> None:
    assert Batches(np.arange(n_tokens), 16, 1, seed=0).windows == (n_tokens - 1) // 16


def test_an_epoch_visits_every_window_once_and_the_next_in_another_order() -> None:
    batches = Batches(np.arange(12 * 8 + 1), 8, 3, seed=5)
    epochs = [np.concatenate([batches.windows_at(4 * epoch + i) for i in range(4)]).tolist() for epoch in range(6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 6


def test_a_batch_continues_into_the_next_epochs() -> None:
    batches = Batches(np.arange(5 * 2 + 1), 2, 12, seed=1)  # 12 of 5 windows: epochs 0, 1 and part of 2
    visited = np.concatenate([batches.windows_at(0), batches.windows_at(1)[:3]]).tolist()
    assert [sorted(visited[i : i + 5]) for i in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3


def test_one_window_is_its_own_epoch() -> None:
    assert Batches(np.arange(9), 8, 3, seed=0).windows_at(7).tolist() == [0, 0, 0]


def test_seeds_give_other_orders() -> None:
    orders = {tuple(Batches(TOKENS, 8, 100, seed).windows_at(0).tolist()) for seed in (0, 1, -1, 10**30)}
    assert len(orders) == 4


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees() -> None:
    uninterrupted = Batches(TOKENS, 8, 6, seed=9)
    seen = [uninterrupted.at(step) for step in range(50)]
    resumed = Batches(TOKENS.copy(), 8, 6, seed=9)
    for step in [49, *range(30, 50)]:
        for now, then in zip(resumed.at(step), seen[step], strict=True):
            assert torch.equal(now, then)


def test_the_order_does_not_depend_on_how_a_run_is_cut_into_batches() -> None:
    small, large = Batches(TOKENS, 8, 3, seed=2), Batches(TOKENS, 8, 12, seed=2)
    assert np.concatenate([small.windows_at(i) for i in range(40)]).tolist() == (
        np.concatenate([large.windows_at(i) for i in range(10)]).tolist()
    )


def test_too_few_tokens_are_refused_with_both_figures() -> None:
    with pytest.raises(ValueError, match=r"training has 16 tokens.*context 16 \(needs 17\)"):
        Batches(np.arange(16), 16, 1, seed=0)
    with pytest.raises(ValueError, match=r"validation has 0 tokens.*needs 17"):
        validation_batches(np.arange(0), 16, 1, 100)


@pytest.mark.parametrize(("context", "batch_size"), [(0, 1), (1, 0)])
def test_empty_batches_are_refused(context: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        Batches(TOKENS, context, batch_size, seed=0)


def test_a_negative_step_is_refused() -> None:
    with pytest.raises(ValueError, match="got -1"):
        Batches(TOKENS, 8, 2, seed=0).at(-1)


def test_validation_windows_are_distinct_and_evenly_spread() -> None:
    tokens = np.arange(101 * 10 + 1)
    batches = validation_batches(tokens, context=10, batch_size=4, n_tokens=95)
    starts = [int(row[0]) // 10 for inputs, _ in batches for row in inputs]
    assert starts == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]  # floor(i · 101 / 10)
    assert [len(inputs) for inputs, _ in batches] == [4, 4, 2]
    assert batches.n_tokens == 100
    assert all(torch.equal(targets, inputs + 1) for inputs, targets in batches)


def test_validation_is_the_same_at_every_pass_and_every_batch_size() -> None:
    ones = validation_batches(TOKENS, 10, 1, 300)
    sevens = validation_batches(TOKENS, 10, 7, 300)
    for _ in range(2):
        assert torch.equal(torch.cat([i for i, _ in ones]), torch.cat([i for i, _ in sevens]))
    assert len(sevens[1:3]) == 2


def test_a_validation_set_larger_than_the_text_is_all_of_it() -> None:
    batches = validation_batches(np.arange(31), context=10, batch_size=8, n_tokens=10_000)
    assert batches.n_tokens == 30
    assert [int(row[0]) for inputs, _ in batches for row in inputs] == [0, 10, 20]

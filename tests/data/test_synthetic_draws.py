"""Random numbers by address: independent of the batch, even, and without replacement where they say so."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from lab.data.synthetic.draws import Draws, skip_taken

MANY = np.arange(24_000)


def chi_square(counts: Counter[tuple[int, ...]], probability: dict[tuple[int, ...], float]) -> float:
    """p-value of the counts under the probabilities; 0 where something impossible was drawn."""
    if set(counts) - set(probability):
        return 0.0
    n = sum(counts.values())
    expected = [n * p for p in probability.values()]
    return float(stats.chisquare([counts[key] for key in probability], expected).pvalue)


def test_an_item_is_the_same_in_whichever_batch_it_is_drawn() -> None:
    whole, alone = Draws("s", np.arange(50)), Draws("s", np.array([37]))
    for draw in ("uniform", "below", "distinct", "weighted"):
        arguments = {"uniform": (6,), "below": (9, 6), "distinct": (9, 6), "weighted": (np.arange(1.0, 10.0), 6)}[draw]
        of_all, of_one = (getattr(each, draw)("x", *arguments) for each in (whole, alone))
        assert of_all.shape == (50, 6)
        np.testing.assert_array_equal(of_all[37:38], of_one)
        assert len(np.unique(of_all, axis=0)) > 45
        for other in (getattr(Draws("t", np.arange(50)), draw), lambda _, *a: getattr(whole, draw)("y", *a)):  # noqa: B023
            assert not np.array_equal(other("x", *arguments), of_all)


def test_a_longer_row_begins_like_a_shorter_one() -> None:
    draws = Draws("s", MANY[:100])
    np.testing.assert_array_equal(draws.uniform("x", 9)[:, :4], draws.uniform("x", 4))


def test_numbers_are_even_and_independent() -> None:
    values = Draws("s", MANY).uniform("x", 3)
    assert values.min() >= 0
    assert values.max() < 1
    for column in values.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.03
    assert chi_square(Counter(map(tuple, Draws("s", MANY).below("y", 3, 2))), dict.fromkeys(
        [(a, b) for a in range(3) for b in range(3)], 1 / 9
    )) > 1e-3  # fmt: skip


@pytest.mark.parametrize(("high", "n"), [(4, 3), (3, 3), (5, 1)])
def test_distinct_choices_and_orders_are_equally_likely(high: int, n: int) -> None:
    every = list(permutations(range(high), n))
    counts = Counter(map(tuple, Draws("s", MANY).distinct("x", high, n).tolist()))
    assert chi_square(counts, dict.fromkeys(every, 1 / len(every))) > 1e-3


def test_weighted_places_are_drawn_one_after_another_by_the_weights_that_are_left() -> None:
    weights = np.array([1.0, 4.0, 2.0, 0.5])
    probability = {}
    for a, b in permutations(range(4), 2):
        left = weights.sum() - weights[a]
        probability[a, b] = float(weights[a] / weights.sum() * weights[b] / left)
    counts = Counter(map(tuple, Draws("s", MANY).weighted("x", weights, 2).tolist()))
    assert chi_square(counts, probability) > 1e-3


def test_skipping_counts_past_what_is_taken() -> None:
    taken = np.array([[0, 2, 3], [1, 5, 6]])
    expected = [[n for n in range(9) if n not in row] for row in taken.tolist()]
    np.testing.assert_array_equal(skip_taken(np.array([range(6), range(6)]), taken), expected)

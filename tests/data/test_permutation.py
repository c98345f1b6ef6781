"""The order of an epoch: a permutation that is computed, not stored."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.data.permutation import permute


def whole(n: int, key: str) -> list[int]:
    return [int(i) for i in permute(np.arange(n), n, key)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 16, 17, 97, 100, 1009, 4096, 65_537])
def test_every_place_is_visited_exactly_once(n: int) -> None:
    assert sorted(whole(n, "0/0")) == list(range(n))


@given(st.integers(1, 500), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_size_and_key_give_a_permutation(n: int, epoch: int) -> None:
    assert sorted(whole(n, f"7/{epoch}")) == list(range(n))


def test_places_of_a_huge_range_stay_inside_and_apart() -> None:
    n = 10**15 + 37
    some = permute(np.arange(n - 5000, n), n, "3/1")
    assert len(set(some.tolist())) == 5000
    assert some.min() >= 0
    assert some.max() < n
    assert abs(some.mean() / n - 0.5) < 0.03


def test_one_element_at_a_time_gives_what_all_at_once_give() -> None:
    assert [int(permute(np.array([i]), 101, "k")[0]) for i in range(101)] == whole(101, "k")


def test_the_argument_is_left_as_it_was() -> None:
    indices = np.arange(50)
    permute(indices, 50, "k")
    assert indices.tolist() == list(range(50))


def test_keys_give_unrelated_orders() -> None:
    agreeing = np.mean(
        [np.mean(permute(np.arange(1000), 1000, "a") == permute(np.arange(1000), 1000, f"b{i}")) for i in range(50)]
    )
    assert agreeing < 0.003  # 1 / 1000 by chance


def test_orders_of_three_are_equally_frequent() -> None:
    seen = Counter(tuple(whole(3, str(i))) for i in range(1200))
    assert len(seen) == 6
    assert all(150 < count < 250 for count in seen.values())


def test_neighbouring_items_are_far_apart_after_permutation() -> None:
    steps = np.abs(np.diff(whole(10_000, "0/0")))
    assert abs(steps.mean() - 10_000 / 3) < 150  # of two independent uniform places


def test_orders_stay_as_they_were_in_earlier_versions() -> None:
    """A run resumed after an upgrade must go on in the order that it began with."""
    assert whole(10, "0/0") == [9, 7, 4, 1, 0, 2, 3, 6, 8, 5]

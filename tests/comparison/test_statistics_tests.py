"""The tests and intervals by themselves, against scipy, statsmodels and all choices of signs tried one by one."""

from __future__ import annotations

import gc
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from lab.comparison.statistics.equivalence import equivalence_interval, equivalence_p
from lab.comparison.statistics.paired import PairedDifference, holm, paired_difference
from lab.comparison.statistics.resampling import (
    BOOTSTRAP_PAIRS,
    BOOTSTRAP_RESAMPLES,
    MOST_FLIPPED,
    SEED,
    SIGN_FLIP_PAIRS,
    bootstrap_interval,
    sign_flip_p,
)

NUMBERS = st.floats(-5, 5, allow_subnormal=False)


def drawn(n: int, seed: int = 0, shift: float = 0.4) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(shift, 1, n)]


def difference(values: list[float]) -> PairedDifference:
    return paired_difference(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_p_is_that_of_scipys_paired_t_test(n: int) -> None:
    for seed in range(20):
        arm, baseline = drawn(n, seed), drawn(n, seed + 100)
        found = paired_difference(dict(enumerate(arm)), dict(enumerate(baseline)))
        assert found.p == pytest.approx(stats.ttest_rel(arm, baseline).pvalue, rel=1e-9)


def test_p_is_below_alpha_exactly_where_the_interval_excludes_zero() -> None:
    for seed in range(300):
        found = difference(drawn(4, seed, 0.8))
        assert found.p is not None
        assert (found.p < 0.05) == (found.sign != "unclear")


@pytest.mark.parametrize("n", [2, 3, 6, 9])
def test_without_spread_a_difference_has_the_p_of_the_sign_flips_and_none_is_none(n: int) -> None:
    assert difference([0.0] * n).p == 1
    found = difference([0.5] * n)
    flipped = stats.permutation_test(([0.5] * n,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.p == pytest.approx(flipped.pvalue)
    assert found.interval is None, "it would be a point, as if there could be no other difference"
    assert found.remarks == ("the same difference on every seed",)
    assert difference([0.5]).p is None


def test_holm_is_that_of_statsmodels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # which statsmodels does each time, for a tenth of a second
    generator = np.random.default_rng(0)
    for _ in range(200):
        p_values = generator.random(generator.integers(1, 13)) ** 3
        if generator.random() < 0.3:
            p_values = np.round(p_values, 1)  # ties, zeros and ones
        found = holm(dict(enumerate(map(float, p_values))))
        expected = multipletests(p_values, method="holm")[1]
        assert [found[n] for n in range(len(p_values))] == pytest.approx(list(expected), abs=1e-12)


def test_holm_counts_arms_that_have_no_p_value_yet() -> None:
    found = holm({"a": 0.01, "b": 0.02, "waiting": None})
    assert found == {"a": pytest.approx(0.03), "b": pytest.approx(0.04), "waiting": None}
    assert holm({"a": 0.01, "b": 0.02, "came": 1.0})["b"] == found["b"]


@pytest.mark.parametrize("n", [2, 3, 7, 30])
@pytest.mark.parametrize("margin", [0.1, 0.5, 2.0])
def test_equivalence_is_that_of_statsmodels(n: int, margin: float) -> None:
    for seed in range(10):
        arm, baseline = np.array(drawn(n, seed, 0.2)), np.array(drawn(n, seed + 50, 0.0))
        expected, *_ = ttost_paired(arm, baseline, -margin, margin)
        found = paired_difference(dict(enumerate(arm)), dict(enumerate(baseline)))
        assert equivalence_p(found, margin) == pytest.approx(expected, rel=1e-9)


def test_equivalence_holds_exactly_where_the_shorter_interval_lies_within_the_margin() -> None:
    held = 0
    for seed in range(300):
        found = difference(drawn(5, seed, 0.1))
        interval, p = equivalence_interval(found, 0.05), equivalence_p(found, 1.2)
        assert interval is not None
        assert p is not None
        assert interval.level == pytest.approx(0.9)
        assert (p < 0.05) == (interval.low > -1.2 and interval.high < 1.2)
        held += p < 0.05
    assert 50 < held < 250


def test_equivalence_without_spread_is_whether_it_is_within_and_of_one_pair_nothing() -> None:
    assert equivalence_p(difference([0.1, 0.1]), 0.2) == 0.25
    assert equivalence_p(difference([0.1] * 5), 0.2) == 1 / 32
    assert equivalence_p(difference([0.2, 0.2]), 0.2) == 1
    assert equivalence_p(difference([0.1]), 0.2) is None
    assert equivalence_interval(difference([0.1]), 0.05) is None


@pytest.mark.parametrize("n", [6, 7, 8, 11])
def test_sign_flips_are_all_choices_of_signs_tried_one_by_one(n: int) -> None:
    for seed in range(5):
        values = drawn(n, seed)
        sums = [
            abs(sum(s * v for s, v in zip(signs, values, strict=True)))
            for signs in itertools.product((1, -1), repeat=n)
        ]
        expected = sum(total >= abs(sum(values)) - 1e-9 for total in sums) / 2**n
        assert sign_flip_p(values) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("n", [6, 9, 12])
def test_sign_flips_are_scipys_permutation_test(n: int) -> None:
    values = drawn(n, 3)
    expected = stats.permutation_test(
        (np.array(values),), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert sign_flip_p(values) == pytest.approx(expected.pvalue, rel=1e-12)


def test_ties_count_as_equally_extreme() -> None:
    assert sign_flip_p([1.0, 1.0, 1.0, 1.0, 1.0, 1.0]) == 2 / 64
    assert sign_flip_p([0.1, 0.2, 0.3, -0.1, -0.2, -0.3]) == 1
    assert sign_flip_p([0.0] * 6) == 1
    assert sign_flip_p([0.0, 0.0, 0.0, 0.0, 0.0, 0.1]) == 1


def test_below_six_pairs_no_choice_of_signs_could_tell_and_none_is_tried() -> None:
    assert next(n for n in itertools.count(1) if 2 / 2**n < 0.05) == SIGN_FLIP_PAIRS
    assert sign_flip_p([1.0] * 5) is None
    assert sign_flip_p([1.0] * MOST_FLIPPED) == 2 / 2**MOST_FLIPPED
    assert sign_flip_p([1.0] * (MOST_FLIPPED + 1)) is None


@settings(max_examples=30, deadline=None)
@given(st.lists(NUMBERS, min_size=6, max_size=12))
def test_a_sign_flip_p_value_is_a_share_of_all_choices_and_the_same_for_the_opposite(values: list[float]) -> None:
    found = sign_flip_p(values)
    assert found is not None
    assert (found * 2 ** len(values)).is_integer()
    assert 2 / 2 ** len(values) <= found <= 1
    assert sign_flip_p([-value for value in reversed(values)]) == found


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("n", [10, 15, 40])
def test_the_bootstrap_is_scipys(n: int, level: float) -> None:
    for values in (drawn(n, 1), [math.exp(value) for value in drawn(n, 2)]):
        expected = stats.bootstrap(
            (np.array(values),), np.mean, confidence_level=level, n_resamples=BOOTSTRAP_RESAMPLES, method="BCa",
            rng=np.random.default_rng(SEED),
        ).confidence_interval  # fmt: skip
        found = bootstrap_interval(values, level)
        assert found is not None
        # But for resamples of the very mean of the sample, which rounding puts on either side of it.
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=2e-3 * np.std(values))


def test_the_bootstrap_is_the_same_each_time_and_takes_ten_pairs() -> None:
    assert bootstrap_interval(drawn(10), 0.95) == bootstrap_interval(drawn(10), 0.95)
    assert bootstrap_interval(drawn(BOOTSTRAP_PAIRS - 1), 0.95) is None
    same = bootstrap_interval([0.3] * 10, 0.95)
    assert same is not None
    assert (same.low, same.high) == (0.3, 0.3)

import math

import numpy as np
import pytest
from scipy import stats

from lab.comparison.statistics.paired import paired_difference, sample

BASELINE = {0: 3.21, 1: 3.25, 2: 3.19, 3: 3.30, 4: 3.22}
ARM = {0: 3.18, 1: 3.24, 2: 3.17, 3: 3.24, 4: 3.21}


def both(n: int) -> tuple[dict[int, float], dict[int, float]]:
    return {seed: ARM[seed] for seed in range(n)}, {seed: BASELINE[seed] for seed in range(n)}


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_interval_is_that_of_scipys_paired_t_test(n: int, level: float) -> None:
    arm, baseline = both(n)
    expected = stats.ttest_rel(list(arm.values()), list(baseline.values())).confidence_interval(level)
    found = paired_difference(arm, baseline, level=level)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.interval.level == level


def test_mean_spread_and_correlation_are_those_of_numpy_and_scipy() -> None:
    found = paired_difference(ARM, BASELINE)
    x, y = np.array(list(ARM.values())), np.array(list(BASELINE.values()))
    assert found.n == 5
    assert found.mean == pytest.approx((x - y).mean(), rel=1e-12)
    assert found.sd == pytest.approx((x - y).std(ddof=1), rel=1e-12)
    assert found.correlation == pytest.approx(stats.pearsonr(x, y).statistic, rel=1e-12)


def test_interval_covers_the_true_difference_as_often_as_it_says_at_three_seeds() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        shared, own = generator.normal(0, 1, 3), generator.normal(0.5, 0.3, 3)
        interval = paired_difference(dict(enumerate(shared + own)), dict(enumerate(shared))).interval
        assert interval is not None
        hits += interval.low <= 0.5 <= interval.high
    assert 0.935 < hits / 2000 < 0.965


def test_pairing_takes_out_what_the_seeds_share() -> None:
    shared = {0: 1.0, 1: 5.0, 2: 9.0}
    found = paired_difference({seed: value - 0.1 - 0.001 * seed for seed, value in shared.items()}, shared)
    assert found.interval is not None
    assert found.interval.high - found.interval.low < 0.01  # unpaired it would be wider than 10
    assert found.correlation == pytest.approx(1.0)


def test_pairs_are_made_by_seed_and_not_by_place() -> None:
    backwards = dict(reversed(BASELINE.items()))
    assert paired_difference(ARM, backwards) == paired_difference(ARM, BASELINE)


def test_one_pair_has_a_difference_and_no_interval() -> None:
    found = paired_difference({3: 2.0}, {3: 1.5})
    assert (found.n, found.mean, found.sd, found.interval) == (1, 0.5, None, None)
    assert found.sign == "unclear"
    assert found.remarks == ("one pair (seed 3): no interval",)


def test_only_shared_seeds_are_paired_and_the_others_are_reported() -> None:
    found = paired_difference({0: 1.0, 1: 1.1, 2: 1.2, 7: 100.0}, {0: 0.5, 1: 0.7, 2: 0.6, 8: -100.0})
    assert found.seeds == (0, 1, 2)
    assert found.mean == pytest.approx(0.5)
    assert found.unpaired == (7, 8)
    assert "3 of 5 seeds paired" in found.remarks


def test_no_shared_seed_gives_no_difference() -> None:
    found = paired_difference({0: 1.0}, {1: 1.0})
    assert (found.n, found.mean, found.interval, found.correlation) == (0, None, None, None)
    assert found.remarks == ("no seed in common with the baseline",)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["arm", "baseline"])
def test_a_value_that_is_not_finite_leaves_the_pairs_and_is_reported(bad: float, side: str) -> None:
    values = {"arm": dict(ARM), "baseline": dict(BASELINE)}
    values[side][2] = bad
    found = paired_difference(values["arm"], values["baseline"])
    rest = [seed for seed in ARM if seed != 2]
    assert found.seeds == tuple(rest)
    assert found.mean == pytest.approx(np.mean([ARM[seed] - BASELINE[seed] for seed in rest]))
    assert found.not_finite == (2,)
    assert "not finite: seed 2" in found.remarks


@pytest.mark.parametrize(("shift", "verdict"), [(-1.0, "lower"), (1.0, "higher"), (0.03, "unclear")])
def test_verdict_is_the_sign_of_an_interval_that_excludes_zero(shift: float, verdict: str) -> None:
    assert paired_difference({seed: value + shift for seed, value in ARM.items()}, BASELINE).sign == verdict


def test_identical_arms_are_said_to_be_identical() -> None:
    found = paired_difference(BASELINE, BASELINE)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high, found.sign) == (0, 0, "unclear")
    assert found.remarks == ("identical on every seed",)


def test_two_pairs_have_no_correlation_because_two_points_always_lie_on_a_line() -> None:
    assert paired_difference(*both(2)).correlation is None
    assert paired_difference(*both(3)).correlation is not None


def test_an_arm_that_is_the_same_on_every_seed_has_no_correlation() -> None:
    assert paired_difference({0: 0.1, 1: 0.1, 2: 0.1}, {0: 0.3, 1: 0.2, 2: 0.4}).correlation is None


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_a_level_outside_zero_to_one_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1"):
        paired_difference(ARM, BASELINE, level=level)


def test_a_sample_counts_what_is_not_finite_apart() -> None:
    found = sample({0: 1.0, 1: math.nan, 2: 3.0, 3: math.inf})
    assert (found.n, found.mean, found.not_finite) == (2, 2.0, (1, 3))
    assert found.sd == pytest.approx(math.sqrt(2))


def test_a_sample_of_one_has_no_spread_and_of_none_no_mean() -> None:
    assert (sample({4: 2.5}).mean, sample({4: 2.5}).sd) == (2.5, None)
    assert (sample({}).n, sample({}).mean) == (0, None)

"""Differences that vary by rounding alone, and values near the largest that a float holds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lab.cli.main import cli
from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.comparison.statistics.equivalence import equivalence_interval, equivalence_p
from lab.comparison.statistics.factorial import Effect, factorial
from lab.comparison.statistics.paired import PairedDifference, mean_of, paired_difference, sample
from lab.comparison.statistics.resampling import BOOTSTRAP_PAIRS, bootstrap_interval, sign_flip_p
from tests.comparison.fake_runs import fake_run, fake_sweep
from tests.comparison.test_comparison_table import printed
from tests.comparison.test_statistics_factorial import AXES, noisy, swept

BEFORE = [0.35, 0.35, 0.35, 0.4, 0.35, 0.35, 0.35, 0.4, 0.4, 0.35, 0.3]
AFTER = [0.4, 0.4, 0.4, 0.45, 0.4, 0.4, 0.4, 0.45, 0.45, 0.4, 0.35]
HUGE = [1e200, 1e308, -1e308]


def paired(arm: list[float], baseline: list[float]) -> PairedDifference:
    return paired_difference(dict(enumerate(arm)), dict(enumerate(baseline)))


def test_the_bootstrap_of_differences_that_vary_by_rounding_is_a_point() -> None:
    differences = [b - a for a, b in zip(BEFORE, AFTER, strict=True)]
    assert len(set(differences)) > 1
    found = bootstrap_interval(differences, 0.95)
    assert found is not None
    assert found.low == found.high == pytest.approx(0.05)


STEPS = st.sampled_from([0.05, 0.1, 1 / 3, 0.001, 1 / 300, 7e-5])
GAINS = st.one_of(st.integers(-2, 2).map(st.just), st.just(st.integers(-2, 2)))  # the same on every seed, or any
DRAWN = GAINS.flatmap(lambda gain: st.lists(st.tuples(st.integers(0, 20), gain), min_size=BOOTSTRAP_PAIRS, max_size=14))


@settings(max_examples=150, deadline=None)
@given(STEPS, DRAWN, st.floats(0.5, 0.999))
def test_the_bootstrap_of_values_in_steps_is_that_of_the_counts(
    step: float, drawn: list[tuple[int, int]], level: float
) -> None:
    counts = [float(gain) for _, gain in drawn]
    found = bootstrap_interval([(start + gain) * step - start * step for start, gain in drawn], level)
    exact = bootstrap_interval(counts, level)
    assert found is not None
    assert exact is not None
    assert (found.low / step, found.high / step) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert min(counts) <= exact.low <= exact.high <= max(counts)


@pytest.mark.parametrize("level", [1 - 1e-9, 1 - 2e-16])
def test_the_bootstrap_at_a_level_beyond_all_resamples_ends_at_the_outermost(level: float) -> None:
    found = bootstrap_interval([0.0] * 9 + [10.0], level)
    assert found is not None
    assert 0 <= found.low < 1 < found.high <= 10


def test_a_gain_that_varies_by_rounding_is_the_same_on_every_seed() -> None:
    found = paired(AFTER, BEFORE)
    assert (found.sd, found.p) == (0, 2 / 2 ** len(BEFORE))
    assert found.remarks == ("the same difference on every seed",)
    assert found.interval is None
    assert found.mean == pytest.approx(0.05)
    assert len(set(found.values)) == 1
    assert (equivalence_p(found, 0.06), equivalence_p(found, 0.04)) == (1 / 2 ** len(BEFORE), 1)
    assert sign_flip_p(found.values) == 2 / 2 ** len(BEFORE)


def test_rounding_is_that_of_the_values_and_not_of_their_difference() -> None:
    losses = [0.7, 1.9, 3.19, 4.3]
    arm = [loss + 1e-9 for loss in losses]
    assert len({a - b for a, b in zip(arm, losses, strict=True)}) > 1  # by 4e-16, a share of 4e-7
    assert paired(arm, losses).sd == 0


def test_what_differs_by_rounding_alone_is_the_same_and_not_certainly_better() -> None:
    found = paired([0.1 + 0.2, 0.3, 0.1 + 0.2], [0.3, 0.3, 0.3])
    assert (found.mean, found.sd, found.p, found.verdict) == (0, 0, 1, "unclear")
    assert found.remarks == ("identical on every seed",)


@pytest.mark.parametrize("spread", [1e-10, 1e-8, 1e-3])
def test_a_small_spread_is_a_spread(spread: float) -> None:
    arm = [3.0 + 0.1 + spread, 3.5 + 0.1, 3.2 + 0.1 - spread]
    found = paired(arm, [3.0, 3.5, 3.2])
    assert found.p == pytest.approx(stats.ttest_rel(arm, [3.0, 3.5, 3.2]).pvalue, rel=1e-9)
    assert found.remarks == ()


def test_beside_a_broken_value_a_spread_is_no_rounding() -> None:
    found = paired([3.1, 3.3, 1e200], [3.0, 3.1, 1e200])
    assert found.values[:2] == pytest.approx((0.1, 0.2))
    assert found.sd == pytest.approx(0.1)


def test_an_arm_that_varies_by_rounding_has_no_correlation() -> None:
    assert paired([0.3, 0.1 + 0.2, 0.3, 0.3], [0.3, 0.2, 0.4, 0.1]).correlation is None


@pytest.mark.parametrize("n", [2, 3, 6, 7, 10])
def test_equal_values_have_exactly_their_mean_and_no_spread(n: int) -> None:
    found = sample(dict.fromkeys(range(n), 0.1))
    assert (found.mean, found.sd) == (0.1, 0)


def test_an_effect_that_varies_by_rounding_is_the_same_in_every_seed() -> None:
    def accuracy(values: tuple[object, ...], seed: int) -> float:
        return (7 + seed + 2 * (values[0] == "bb") + (values[1] == "dd")) * 0.05

    first, second, both = effects(accuracy)
    assert (first.sd, second.sd, both.sd) == (0, 0, 0)
    assert (first.mean, second.mean) == (pytest.approx(0.1), pytest.approx(0.05))
    assert (both.mean, both.p) == (0, 1)


def effects(loss: object) -> tuple[Effect, ...]:
    return factorial(swept(AXES, loss, 5), "val/loss").effects  # type: ignore[arg-type]


def test_the_effects_of_a_grid_with_a_huge_value_are_unclear() -> None:
    found = effects(lambda values, seed: 1e200 if (*values, seed) == ("bb", "dd", 1) else noisy(values, seed))
    assert found
    for effect in found:
        assert effect.p is not None
        assert effect.interval is not None
        assert not effect.interval.excludes_zero
        assert effect.p > 0.3


def test_a_grid_whose_contrasts_overflow_has_no_effects_and_says_why() -> None:
    found = factorial(swept(AXES, lambda values, seed: 1e308 * (-1) ** seed, 2), "val/loss")
    assert found.effects == ()
    assert found.reason is not None
    assert "too large" in found.reason


@pytest.mark.parametrize("huge", HUGE)
def test_one_huge_value_leaves_everything_unclear(huge: float) -> None:
    arm = [*AFTER[:-1], huge]
    found = paired(arm, BEFORE)
    assert found.mean == pytest.approx(huge / len(arm))
    assert found.sd == pytest.approx(abs(huge) / math.sqrt(len(arm)), rel=1e-9)
    assert found.p is not None
    assert found.p > 0.3
    assert found.verdict == "unclear"
    one = [*(0.0 for _ in AFTER[:-1]), math.copysign(1, huge)]  # the same in another unit
    assert found.correlation == pytest.approx(stats.pearsonr(one, BEFORE).statistic)
    assert sign_flip_p(found.values) == 1
    assert equivalence_p(found, 0.1) == pytest.approx(1, abs=0.3)
    assert equivalence_interval(found, 0.05) is not None
    bootstrap = bootstrap_interval(found.values, 0.95)
    assert bootstrap is not None
    assert min(huge, 0) <= bootstrap.low <= bootstrap.high <= max(huge, 1)


def test_the_spread_of_huge_values_is_that_of_small_ones_times_as_much() -> None:
    small = {0: 1.0, 1: 1.5, 2: 0.75}
    assert sample({seed: value * 2.0**1000 for seed, value in small.items()}).sd == sample(small).sd * 2.0**1000  # type: ignore[operator]


def test_the_mean_of_values_whose_sum_overflows_is_theirs() -> None:
    assert mean_of([1e308, 1.5e308]) == pytest.approx(1.25e308)


def test_a_difference_that_overflows_is_not_finite() -> None:
    found = paired([1e308, 1.0, 2.0], [-1e308, 0.5, 1.0])
    assert (found.seeds, found.not_finite) == ((1, 2), (0,))
    assert "not finite: seed 0" in found.remarks


def test_a_spread_that_overflows_is_infinite_and_cant_be_told() -> None:
    found = paired([1.7e308, -1.7e308, -1.7e308], [0.0, 0.0, 0.0])
    assert (found.sd, found.p, found.verdict) == (math.inf, 1, "unclear")


def test_a_whole_number_that_no_float_holds_is_not_finite() -> None:
    assert sample({0: 1.0, 1: 10**400}).not_finite == (1,)
    assert paired([1.0, 2.0, 10**400], [1.0, 2.0, 3.0]).not_finite == (2,)


def test_the_smallest_spread_divides_nothing_by_zero() -> None:
    found = paired([5e-324, *[0.0] * 8], [0.0] * 9)
    assert found.p is not None
    assert equivalence_p(found, 0.1) == 1 / 2**9


@pytest.mark.parametrize("huge", HUGE)
def test_a_sweep_with_a_huge_value_is_compared_and_its_json_is_strict(tmp_path: Path, huge: float) -> None:
    losses = {"both": [3.2 + 0.01 * seed for seed in range(12)], "neither": [3.4 - 0.01 * seed for seed in range(12)]}
    fake_sweep(tmp_path, losses)
    fake_run(tmp_path / "other", "neither", 5, order=1, loss=huge)
    (tmp_path / "other/softcap/neither/seed-5/summary.json").replace(tmp_path / "softcap/neither/seed-5/summary.json")
    comparison = compare(collect(tmp_path, "softcap"))
    (cell,) = comparison.rows[1].cells.values()
    assert (cell.verdict, cell.sample.n) == ("can't tell", 12)
    data = json.loads(comparison.as_json(), parse_constant=pytest.fail)
    assert data["arms"][1]["metrics"]["val/loss"]["mean"] == pytest.approx(huge / 12)
    assert printed(comparison)
    assert comparison.as_csv()
    asked = ["report", "softcap", "--root", str(tmp_path)]
    assert CliRunner().invoke(cli, asked, standalone_mode=False).exception is None

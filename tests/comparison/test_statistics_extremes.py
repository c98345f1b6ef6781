"""Differences that vary by rounding alone, and values that no run can have measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lab.cli.main import cli
from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.comparison.statistics.equivalence import equivalence_p
from lab.comparison.statistics.factorial import Effect, factorial
from lab.comparison.statistics.paired import PairedDifference, paired_difference, sample
from lab.comparison.statistics.resampling import BOOTSTRAP_PAIRS, bootstrap_interval, sign_flip_p
from lab.comparison.tables import export
from tests.comparison.fake_runs import fake_sweep
from tests.comparison.test_comparison_table import printed
from tests.comparison.test_statistics_factorial import AXES, swept

BEFORE = [0.35, 0.35, 0.35, 0.4, 0.35, 0.35, 0.35, 0.4, 0.4, 0.35, 0.3]
AFTER = [0.4, 0.4, 0.4, 0.45, 0.4, 0.4, 0.4, 0.45, 0.45, 0.4, 0.35]
HUGE = [1e200, 1e308, -1e308, 10**400]


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
    assert (found.mean, found.sd, found.p, found.sign) == (0, 0, 1, "unclear")
    assert found.remarks == ("identical on every seed",)


@pytest.mark.parametrize("spread", [1e-10, 1e-8, 1e-3])
def test_a_tiny_spread_gives_the_p_value_of_scipy(spread: float) -> None:
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


def test_the_smallest_spread_divides_nothing_by_zero() -> None:
    found = paired([5e-324, *[0.0] * 8], [0.0] * 9)
    assert found.p is not None
    assert equivalence_p(found, 0.1) == 1 / 2**9


@pytest.mark.parametrize("huge", HUGE)
def test_a_value_that_no_run_can_have_measured_is_refused_by_file_and_key_and_the_rest_is_shown(
    tmp_path: Path, huge: float
) -> None:
    losses = {"both": [3.2 + 0.01 * seed for seed in range(12)], "neither": [3.4 - 0.01 * seed for seed in range(12)]}
    fake_sweep(tmp_path, losses)
    path = tmp_path / "softcap" / "neither" / "seed-5" / "summary.json"
    summary = json.loads(path.read_text())
    summary["metrics"]["val/loss"] = huge
    path.write_text(json.dumps(summary))
    comparison = compare(collect(tmp_path, "softcap"))
    ((folder, problem),) = comparison.sweep.broken
    assert folder == path.parent
    assert f"{path}: metrics.val/loss: expected a number up to 1e+100 in size, got " in problem
    (cell,) = comparison.rows[1].cells.values()
    assert (cell.verdict, cell.sample.n) == ("worse", 11)
    assert json.loads(export.as_json(comparison), parse_constant=pytest.fail)["broken"][0]["problem"] == problem
    assert "summary.json" in printed(comparison)
    assert export.as_csv(comparison)
    asked = ["report", "softcap", "--root", str(tmp_path)]
    assert CliRunner().invoke(cli, asked, standalone_mode=False).exception is None

"""What seeds can detect: the paired t test's exact power, against statsmodels, simulation and hand-made runs."""

from __future__ import annotations

import dataclasses
import math
from statistics import stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from statsmodels.stats.power import TTestPower

from lab.planning.forecast.detectable import Noise, detectable, noise, pooled
from lab.planning.forecast.history import FinishedRun, Hardware
from lab.planning.forecast.power import MOST_SEEDS, POWER, power, seeds_needed, smallest_effect
from tests.planning.plans import shipped


def integrated_power(noncentrality: float, degrees: int, alpha: float) -> float:
    """P(|T| > t) of the noncentral t, as the mean of a normal's tails over the chi distribution of the spread."""
    critical = stats.t.isf(alpha / 2, degrees)

    def tails(spread: float) -> float:
        limit = critical * spread / math.sqrt(degrees)
        return stats.norm.sf(limit - noncentrality) + stats.norm.cdf(-limit - noncentrality)

    density = stats.chi(degrees).pdf
    return float(integrate.quad(lambda spread: tails(spread) * density(spread), 0, math.inf, limit=200)[0])


def test_the_integral_agrees_with_statsmodels() -> None:
    for effect, seeds, alpha in [(0.8, 5, 0.05), (2.0, 3, 0.01), (0.3, 30, 0.05 / 7)]:
        expected = TTestPower().power(effect, seeds, alpha, alternative="two-sided")
        assert integrated_power(effect * math.sqrt(seeds), seeds - 1, alpha) == pytest.approx(expected, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    effect=st.floats(0.01, 5),
    sd=st.floats(0.1, 3),
    seeds=st.integers(2, 40),
    comparisons=st.integers(1, 30),
)
def test_power_is_that_of_statsmodels(effect: float, sd: float, seeds: int, comparisons: int) -> None:
    expected = TTestPower().power(effect / sd, seeds, 0.05 / comparisons, alternative="two-sided")
    if math.isnan(expected):  # far out it gives up
        expected = integrated_power(effect / sd * math.sqrt(seeds), seeds - 1, 0.05 / comparisons)
    assert power(effect, sd, seeds, comparisons) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("seeds", "comparisons"), [(3, 1), (3, 4), (5, 3), (10, 1)])
def test_power_is_how_often_simulated_experiments_find_the_effect(seeds: int, comparisons: int) -> None:
    sd = 0.02
    effect = smallest_effect(sd, seeds, comparisons)
    assert effect is not None
    drawn = np.random.default_rng(0).normal(effect, sd, size=(40_000, seeds))
    found = stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05 / comparisons
    assert found.mean() == pytest.approx(POWER, abs=0.01)


@pytest.mark.parametrize("comparisons", [1, 3, 12])
@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
def test_the_smallest_effect_is_found_with_the_power_asked_for_and_no_less(seeds: int, comparisons: int) -> None:
    effect = smallest_effect(0.01, seeds, comparisons)
    assert effect is not None
    assert power(effect, 0.01, seeds, comparisons) == pytest.approx(POWER, abs=1e-9)
    solved = TTestPower().solve_power(None, seeds, 0.05 / comparisons, POWER) if seeds > 3 else None
    assert solved is None or effect / 0.01 == pytest.approx(solved, rel=1e-3)


def test_ten_thousand_comparisons_with_two_seeds_still_have_an_answer() -> None:
    effect = smallest_effect(1.0, 2, 10_000)
    assert effect is not None
    critical = stats.t.isf(0.05 / 10_000 / 2, 1)
    # With a shift so large, T is the shift over the sample's spread alone.
    assert effect == pytest.approx(critical * math.sqrt(stats.chi2.ppf(POWER, 1)) / math.sqrt(2), rel=1e-3)


@pytest.mark.parametrize(("sd", "comparisons"), [(0.005, 1), (0.01, 1), (0.02, 3), (0.004, 6)])
def test_the_seeds_needed_are_enough_and_one_fewer_is_not(sd: float, comparisons: int) -> None:
    seeds = seeds_needed(0.01, sd, comparisons)
    assert power(0.01, sd, seeds, comparisons) >= POWER
    assert seeds == 2 or power(0.01, sd, seeds - 1, comparisons) < POWER


def test_an_effect_far_below_the_noise_takes_more_seeds_than_anyone_has() -> None:
    assert seeds_needed(0.01, 1000.0) == MOST_SEEDS


def test_one_seed_detects_nothing_and_no_noise_everything() -> None:
    assert smallest_effect(0.1, 1) is None
    assert smallest_effect(0.0, 3) == 0.0
    assert seeds_needed(0.01, 0.0) == 2


@given(st.lists(st.lists(st.floats(-5, 5), min_size=2, max_size=6), min_size=1, max_size=4))
def test_the_pooled_spread_is_within_samples_not_between_them(samples: list[list[float]]) -> None:
    sd, degrees = pooled([[value + 1000 * place for value in values] for place, values in enumerate(samples)])
    assert sd is not None
    variance = sum((len(values) - 1) * stdev(values) ** 2 for values in samples) / degrees
    assert sd**2 == pytest.approx(variance, abs=1e-6)
    assert degrees == sum(len(values) - 1 for values in samples)


def test_a_single_pair_says_nothing_of_the_noise() -> None:
    assert pooled([[0.3], [0.7], []]) == (None, 0)


def past(arm: str, seed: int, loss: float, **changes: object) -> FinishedRun:
    run = next(run for run in shipped().runs if (run.arm, run.seed) == (arm, seed))
    made = FinishedRun(
        sweep="quickstart", arm=arm, seed=seed, identity=run.identity, experiment="gemma2_tiny", baseline="gemma2",
        role="report", created="2026", tokens=run.tokens, metrics={"val/loss": loss},
        hardware=Hardware("cpu", "x", 1, "2"), workload=None, tokens_per_second=None, memory_bytes=None,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


OWN = [past("gemma2", 0, 2.50), past("gemma2", 1, 2.60), past("mha", 0, 2.40), past("mha", 1, 2.56)]
"""mha's differences: -0.10 and -0.04."""


def test_the_noise_is_that_of_differences_paired_by_seed() -> None:
    seen = noise(shipped(), OWN)
    assert seen.sd == pytest.approx(stdev([-0.10, -0.04]))
    assert (seen.degrees, seen.source) == (1, "this sweep")
    more = [*OWN, past("local_only", 0, 2.7), past("local_only", 1, 2.9)]
    assert noise(shipped(), more).sd == pytest.approx(
        math.sqrt((stdev([-0.10, -0.04]) ** 2 + stdev([0.2, 0.3]) ** 2) / 2)
    )


def test_runs_of_another_budget_or_not_finite_are_no_noise() -> None:
    stale = [dataclasses.replace(run, identity="0" * 64, tokens=999) for run in OWN]
    assert noise(shipped(), stale) == Noise()
    assert noise(shipped(), [*OWN[:3], past("mha", 1, math.nan)]) == Noise()
    assert noise(shipped(), [dataclasses.replace(run, role="tune") for run in OWN]) == Noise()


def test_other_runs_of_the_same_experiment_and_tokens_stand_in_until_the_sweep_has_its_own() -> None:
    other = [dataclasses.replace(run, identity=f"{n:064x}", sweep="other") for n, run in enumerate(OWN)]
    seen = noise(shipped(), other)
    assert (seen.sd, seen.source) == (pytest.approx(stdev([-0.10, -0.04])), "other runs")
    own = [dataclasses.replace(run, metrics={"val/loss": 2 * run.metrics["val/loss"]}) for run in OWN]
    assert noise(shipped(), [*other, *own]) == Noise(pytest.approx(2 * stdev([-0.10, -0.04])), 1, "this sweep")


def test_arms_that_can_not_be_compared_are_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    more = [*OWN, past("local_only", 0, 2.7), past("local_only", 1, 9.9)]
    monkeypatch.setattr("lab.planning.forecast.detectable.unlike_arms", lambda plan, metric: {"local_only"})
    assert noise(shipped(), more) == noise(shipped(), OWN)


def test_runs_of_another_sweep_are_noise_only_where_they_are_measured_as_its_baseline_and_in_this_unit() -> None:
    def other(**changes: object) -> list[FinishedRun]:
        """Three arms of another sweep; the changes are those of the third, whose noise is large."""
        third = [past("local_only", 0, 2.7, **changes), past("local_only", 1, 9.9, **changes)]
        texts = {"text": "t", "scored_by": ()}
        first = [dataclasses.replace(run, **texts) for run in OWN]
        runs = [*first, *third]
        return [dataclasses.replace(run, identity=f"{n:064x}", sweep="other") for n, run in enumerate(runs)]

    alike = noise(shipped(), [run for run in other() if run.arm != "local_only"])
    assert alike.degrees == 1
    assert noise(shipped(), other()).degrees == 2  # it recorded nothing
    assert noise(shipped(), other(text="t", scored_by=())).degrees == 2
    assert noise(shipped(), other(text="u", scored_by=())) == alike
    assert noise(shipped(), other(text="t", scored_by=("train.context=32",))) == alike
    bpe = [dataclasses.replace(run, scored_by=("data/tokenizer=bpe",)) for run in other()]
    assert noise(shipped(), bpe) == Noise()


def test_a_seed_that_only_one_arm_has_is_no_pair() -> None:
    assert noise(shipped(), [OWN[0], OWN[1], OWN[2]]) == Noise()


def test_a_plans_answer_takes_its_seeds_and_all_its_comparisons() -> None:
    found = detectable(shipped(), OWN)
    sd = stdev([-0.10, -0.04])
    assert (found.seeds, found.comparisons, found.metric) == (2, 3, "val/loss")
    assert found.effect == pytest.approx(smallest_effect(sd, 2, 3))
    assert found.seeds_for_target == seeds_needed(0.01, sd, 3)
    unknown = detectable(shipped(), [])
    assert (unknown.effect, unknown.seeds_for_target) == (None, None)
    assert unknown.as_dict()["noise"] == {"sd": None, "degrees": 0, "source": "unknown"}

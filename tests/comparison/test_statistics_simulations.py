"""What the statistics promise, shown on thousands of simulated sweeps of which the truth is known.

The lab's own code judges some of each, and agrees with a second way of working out the same, of all sweeps at once,
which judges them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lab.comparison.statistics.paired import paired_difference
from lab.comparison.statistics.resampling import BOOTSTRAP_RESAMPLES, SEED, bootstrap_interval
from lab.comparison.statistics.verdicts import Judgement, judge
from lab.planning.forecast.power import POWER, seeds_to_equate, smallest_effect
from lab.planning.solve.selection import Cell, TuningRun, select_cell

pytestmark = pytest.mark.slow

ALPHA = 0.05
SWEEPS = 2_000
SD = 0.01
"""Standard deviation of a paired difference."""


def error(share: float, n: int = SWEEPS) -> float:
    """Three standard errors of a share of `n` simulated sweeps."""
    return 3 * math.sqrt(share * (1 - share) / n)


@cache
def simulated(arms: int, seeds: int, effects: tuple[float, ...] = (), sweeps: int = SWEEPS) -> Any:
    """Losses [sweeps, 1 + arms, seeds], the baseline's first: what a seed does to all arms, and to each."""
    generator = np.random.default_rng([arms, seeds, len(effects)])
    shared = generator.normal(3.0, 0.05, (sweeps, 1, seeds))
    own = generator.normal(0.0, SD / math.sqrt(2), (sweeps, 1 + arms, seeds))
    return shared + own + np.array([0.0, *(effects or (0.0,) * arms)])[:, None]


def judged(losses: Any, margin: float | None = None) -> Mapping[str, Judgement]:
    """What the lab says of one sweep [1 + arms, seeds]."""
    baseline, *arms = (dict(enumerate(map(float, arm))) for arm in losses)
    return judge({str(n): paired_difference(arm, baseline) for n, arm in enumerate(arms)}, "lower", margin=margin)


def corrected(p: Any) -> Any:
    """Holm's p-values of each row of p [sweeps, arms]."""
    order = np.argsort(p, axis=1)
    stepped = np.take_along_axis(p, order, 1) * np.arange(p.shape[1], 0, -1)
    stepped = np.minimum(1.0, np.maximum.accumulate(stepped, axis=1))
    return np.take_along_axis(stepped, np.argsort(order, axis=1), 1)


def told(losses: Any) -> Any:
    """[sweeps, arms]: -1 better, 1 worse, 0 neither."""
    differences = losses[:, 1:] - losses[:, :1]
    p = stats.ttest_1samp(differences, 0.0, axis=2).pvalue
    return np.where(corrected(p) < ALPHA, np.sign(differences.mean(axis=2)), 0)


NAMES = {"better": -1, "worse": 1, "can't tell": 0}


@pytest.mark.parametrize(("arms", "seeds"), [(1, 3), (3, 3), (3, 5), (8, 5), (4, 10), (20, 3)])
def test_arms_that_differ_in_nothing_are_found_different_in_at_most_alpha_of_sweeps(arms: int, seeds: int) -> None:
    losses = simulated(arms, seeds)
    found = told(losses)
    for sweep in range(60):
        assert [NAMES[each.verdict] for each in judged(losses[sweep]).values()] == list(found[sweep])
    wrong = (found != 0).any(axis=1).mean()
    assert wrong <= ALPHA + error(ALPHA)
    if arms == 1:
        assert wrong >= ALPHA - error(ALPHA), "of one arm it is α itself"
    differences = losses[:, 1:] - losses[:, :1]
    uncorrected = (stats.ttest_1samp(differences, 0.0, axis=2).pvalue < ALPHA).any(axis=1).mean()
    assert arms < 3 or uncorrected > ALPHA + 2 * error(ALPHA), "without the correction there would be more"


def wrong_verdicts(sweeps: int) -> int:
    """How many A/A sweeps the lab's own code finds a difference in."""
    losses = simulated(3, 5)[:sweeps]
    return sum(any(each.verdict != "can't tell" for each in judged(of_sweep).values()) for of_sweep in losses)


def test_a_a_sweeps_judged_by_the_labs_own_code() -> None:
    """tests/torture has the same with all simulated sweeps."""
    assert 0.02 * 400 < wrong_verdicts(400) <= (ALPHA + error(ALPHA, 400)) * 400


@pytest.mark.parametrize(("arms", "seeds"), [(1, 3), (1, 5), (3, 5), (6, 4), (3, 10)])
def test_planted_effects_are_found_with_the_power_that_the_plan_promised(arms: int, seeds: int) -> None:
    effect = smallest_effect(SD, seeds, arms)
    assert effect is not None
    losses = simulated(arms, seeds, (-effect, *(0.0,) * (arms - 1)))
    found = told(losses)
    for sweep in range(60):
        assert [NAMES[each.verdict] for each in judged(losses[sweep]).values()] == list(found[sweep])
    share = (found[:, 0] == -1).mean()
    assert share >= POWER - error(POWER)
    assert share <= POWER + error(POWER) + ALPHA, "Holm's later steps add less than the chance that they are reached"
    assert (found[:, 0] == 1).mean() < 0.01
    assert arms == 1 or (found[:, 1:] != 0).any(axis=1).mean() <= ALPHA + error(ALPHA), "nor do the others get in"


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_the_truth_as_often_as_they_say(seeds: int) -> None:
    losses = simulated(1, seeds, (0.02,))
    hits = 0
    for baseline, arm in losses:
        interval = paired_difference(dict(enumerate(arm)), dict(enumerate(baseline))).interval
        assert interval is not None
        hits += interval.low <= 0.02 <= interval.high
    assert abs(hits / SWEEPS - 0.95) <= error(0.95)


def test_the_bootstraps_interval_is_nearly_as_good_from_ten_seeds() -> None:
    """All sweeps are resampled at once, with the draws that the lab takes for each; the lab's own code agrees."""
    losses = simulated(1, 10, (0.02,))[:600]
    differences = losses[:, 1] - losses[:, 0]
    generator = np.random.default_rng(SEED)
    found = stats.bootstrap(
        (differences,), np.mean, axis=1, n_resamples=BOOTSTRAP_RESAMPLES, method="BCa", batch=500, rng=generator
    ).confidence_interval
    for sweep in range(10):
        interval = bootstrap_interval(list(map(float, differences[sweep])), 0.95)
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx((found.low[sweep], found.high[sweep]), abs=SD / 30)
    assert 0.87 < ((found.low <= 0.02) & (found.high >= 0.02)).mean() < 0.96


@pytest.mark.parametrize(("arms", "seeds"), [(1, 3), (3, 5), (5, 8)])
def test_arms_at_the_margin_are_called_equivalent_in_at_most_alpha_of_sweeps(arms: int, seeds: int) -> None:
    margin = 0.04
    losses = simulated(arms, seeds, (margin,) * arms)
    differences = losses[:, 1:] - losses[:, :1]
    below = stats.ttest_1samp(differences, margin, axis=2, alternative="less").pvalue
    above = stats.ttest_1samp(differences, -margin, axis=2, alternative="greater").pvalue
    equal = corrected(np.maximum(below, above)) < ALPHA
    for sweep in range(60):
        found = judged(losses[sweep], margin)
        assert [each.verdict == "equivalent" for each in found.values()] == list(equal[sweep])
    assert equal.any(axis=1).mean() <= ALPHA + error(ALPHA)
    assert arms > 1 or equal.mean() >= ALPHA - error(ALPHA)


def test_arms_without_a_difference_are_shown_equivalent_with_the_seeds_that_the_plan_names() -> None:
    margin, arms = 0.01, 3
    seeds = seeds_to_equate(margin, SD, arms)
    assert seeds is not None
    losses = simulated(arms, seeds, (0.0, 0.05, 0.05))
    verdicts = [judged(sweep, margin)["0"].verdict for sweep in losses[:400]]
    share = verdicts.count("equivalent") / 400
    assert POWER - error(POWER, 400) <= share <= POWER + error(POWER, 400) + ALPHA


def test_what_is_picked_on_tuning_seeds_is_reported_without_the_luck_that_picked_it() -> None:
    generator, truth = np.random.default_rng(0), 3.0
    cells = [Cell(f"lr={n}") for n in range(8)]
    picked, reported = [], []
    for _ in range(500):
        values = generator.normal(truth, SD, (len(cells), 2))
        tried = [TuningRun(cell.name, 9, "finished", value) for cell, (value, _) in zip(cells, values, strict=True)]
        made = select_cell("arm", cells, tried, "val/loss")
        assert made.picked is not None
        picked.append(made.means[made.picked.name])
        reported.append(values[cells.index(made.picked), 1])
    assert np.mean(picked) < truth - SD, "the best of eight looks better than it is"
    assert abs(np.mean(reported) - truth) < 3 * SD / math.sqrt(500)

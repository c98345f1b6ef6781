"""Scaling fits: planted laws come back, intervals hold them, and what can't be fitted is refused with its reason."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import optimize, special

from lab.comparison.read.results import ArmResults, RunResult, SweepResults
from lab.comparison.statistics.scaling import no_fit_reason, scaling
from lab.comparison.statistics.scaling_law import HUBER, Law, NoLaw, ScalingPoint, _Problem, fit_law

CHINCHILLA = Law(e=1.69, a=406.4, b=410.7, alpha=0.34, beta=0.28)
TINY = Law(e=1.1, a=12.0, b=900.0, alpha=0.21, beta=0.49)
SIZES, TOKENS = (2e5, 8e5, 3e6, 1.2e7), (1e6, 5e6, 2.5e7, 1e8)


def points(
    law: Law, noise: float = 0.0, seeds: int = 1, seed: int = 0, sizes: Any = SIZES, tokens: Any = TOKENS
) -> list[ScalingPoint]:
    generator = np.random.default_rng(seed)
    return [
        ScalingPoint(n, d, law.loss(n, d) * float(np.exp(generator.normal(0, noise))))
        for n, d in itertools.product(sizes, tokens)
        for _ in range(seeds)
    ]


@pytest.mark.parametrize("law", [CHINCHILLA, TINY])
def test_a_planted_law_comes_back_from_points_without_noise(law: Law) -> None:
    found = fit_law(points(law), resamples=5)
    for name in ("e", "a", "b", "alpha", "beta"):
        assert getattr(found.law, name) == pytest.approx(getattr(law, name), rel=1e-3)
    assert found.rms < 1e-6
    assert found.law.loss(7e7, 1.4e9) == pytest.approx(law.loss(7e7, 1.4e9), rel=1e-4)
    assert found.law.optimal_exponent == pytest.approx(law.beta / (law.alpha + law.beta), rel=1e-3)


def test_the_loss_is_scipys_huber_of_the_log_and_its_gradient_is_right() -> None:
    made = points(CHINCHILLA, 0.01)
    n, d, y = (np.log([getattr(point, name) for point in made]) for name in ("parameters", "tokens", "loss"))
    problem, weights = _Problem(n, d, y), np.linspace(0.5, 2, len(made))
    theta = np.array([0.6, 1.4, 0.4, 0.3, 0.3])
    a, b = theta[0] + 0.3 * problem.n_mean, theta[1] + 0.3 * problem.d_mean
    log_law = special.logsumexp([a - 0.3 * n, b - 0.3 * d, np.full_like(n, 0.4)], axis=0)
    assert problem.value(theta, weights)[0] == pytest.approx(weights @ special.huber(HUBER, log_law - y) / HUBER**2)
    assert (
        optimize.check_grad(
            lambda at: problem.value(at, weights)[0], lambda at: problem.value(at, weights)[1], theta, epsilon=1e-7
        )
        < 1e-3 * np.abs(problem.value(theta, weights)[1]).max()
    )


def test_one_wild_run_moves_the_law_little() -> None:
    made = points(CHINCHILLA, 1e-4)
    wild = [*made[:5], ScalingPoint(made[5].parameters, made[5].tokens, 2 * made[5].loss), *made[6:]]
    assert fit_law(wild, resamples=2).law.loss(3e6, 2.5e7) == pytest.approx(CHINCHILLA.loss(3e6, 2.5e7), rel=5e-3)


def hits_of_intervals(simulations: int, resamples: int) -> dict[str, int]:
    """In how many simulations the interval of each parameter covers the planted value."""
    hits = dict.fromkeys(("e", "alpha", "beta", "optimal_exponent"), 0)
    for seed in range(simulations):
        found = fit_law(points(CHINCHILLA, 0.003, 2, seed, SIZES[:3], TOKENS[:3]), resamples=resamples)
        for name in hits:
            interval = found.intervals[name]
            hits[name] += interval.low <= getattr(CHINCHILLA, name) <= interval.high
        assert all(interval.low < interval.high for interval in found.intervals.values())
    return hits


def test_intervals_from_the_bootstrap_cover_the_planted_law() -> None:
    """tests/torture has the same with more simulations."""
    assert min(hits_of_intervals(5, 20).values()) > 3


def test_a_fit_is_the_same_each_time_and_its_band_holds_it() -> None:
    made = points(CHINCHILLA, 0.005, 2)
    first, second = fit_law(made, resamples=20), fit_law(made, resamples=20)
    assert (first.law, first.intervals) == (second.law, second.intervals)
    band = first.band(3e6, 2.5e7)
    assert band.low <= first.law.loss(3e6, 2.5e7) <= band.high
    far = first.band(3e9, 2.5e10)
    assert far.high - far.low > band.high - band.low
    assert first.rms == pytest.approx(0.005, rel=0.4)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ([], "0 different sizes with a result; a fit needs 3"),
        (points(TINY, sizes=SIZES[:2]), "2 different sizes with a result; a fit needs 3"),
        (points(TINY, tokens=TOKENS[:1]), "1 different token budgets with a result; a fit needs 3"),
        (
            points(TINY, sizes=(1e6, 1.1e6, 1.2e6)),
            "the largest of the sizes is 1.2 times the smallest; a fit needs 2 times",
        ),
        (
            [ScalingPoint(n, d, 3.0) for n, d in ((1e6, 1e6), (2e6, 9e6), (4e6, 2e6), (1e6, 3e6), (2e6, 1e6))],
            "5 different pairs of size and tokens with a result; a fit needs 6",
        ),
        (
            [ScalingPoint(n, 20 * n, 3.0) for n in (1e6, 2e6, 4e6, 8e6, 2e7, 5e7)],
            "tokens grow in proportion to parameters, so their effects can't be separated",
        ),
        ([*points(TINY), ScalingPoint(1e6, 1e6, -0.5)], "a loss isn't a positive number"),
    ],
)
def test_what_spans_too_little_is_refused_with_its_reason(made: list[ScalingPoint], reason: str) -> None:
    assert no_fit_reason(made) == reason


def test_a_sweep_has_a_fit_for_each_architecture_over_its_sizes() -> None:
    laws = {"gqa": CHINCHILLA, "mha": TINY}
    arms = {}
    for heads, (size, n), d in itertools.product(laws, enumerate(SIZES[:3]), TOKENS[:3]):
        name = f"{heads},{size},{d:g}"
        loss = {"val/loss": laws[heads].loss(n, d)}
        runs = {seed: RunResult(name, seed, f"{name}/{seed}", "finished", metrics=loss) for seed in (0, 1)}
        runs[2] = RunResult(name, 2, f"{name}/2", "diverged", metrics={"val/loss": 99.0})
        axes = {"model/heads": heads, "model.d_model": 64 * (size + 1), "train.tokens": d}
        arms[name] = ArmResults(name, axes, runs, {"parameters": n, "tokens": d})
    arms["far,0"] = ArmResults("far,0", {"model/heads": "mqa", "model.d_model": 64, "train.tokens": 1}, {}, {})
    gqa, mha, mqa = scaling(SweepResults("sizes", None, "far,0", ("val/loss",), "none", arms), resamples=3)
    assert (gqa.group, len(gqa.arms)) == ({"model/heads": "gqa"}, 9)
    assert gqa.fit is not None
    assert mha.fit is not None
    assert len(gqa.fit.points) == 18, "a run that diverged is no point"
    assert gqa.fit.law.alpha == pytest.approx(0.34, rel=1e-3)
    assert mha.fit.law.beta == pytest.approx(0.49, rel=1e-2)
    assert (mqa.fit, mqa.reason) == (None, "0 different sizes with a result; a fit needs 3")


@pytest.mark.parametrize("seed", range(4))
def test_losses_that_fall_with_nothing_are_of_no_law(seed: int) -> None:
    generator = np.random.default_rng(seed)
    flat = [ScalingPoint(n, d, 5 + 0.02 * generator.normal()) for n in (1e6, 4e6, 16e6) for d in (1e7, 4e7, 16e7)]
    with pytest.raises(NoLaw, match=r"doesn't fall with|don't show that the loss falls with"):
        fit_law(flat)


def test_a_law_far_out_is_infinite_and_no_error() -> None:
    assert Law(1.0, 1.0, 1.0, -60.0, 0.3).loss(1e9, 1e9) == np.inf
    assert Law(1.0, 0.0, 0.0, 60.0, 0.3).loss(1e9, 1e9) == 1.0
    assert CHINCHILLA.loss(7e10, 1.4e12) == pytest.approx(1.69 + 406.4 / 7e10**0.34 + 410.7 / 1.4e12**0.28)


def test_a_law_without_a_floor_says_so_and_one_with_a_floor_too() -> None:
    power = Law(e=0.0, a=60.0, b=300.0, alpha=0.3, beta=0.35)
    assert not fit_law(points(power, 0.003, seeds=2), resamples=40).has_floor
    assert fit_law(points(TINY, 0.003, seeds=2), resamples=40).has_floor

"""Fit the scaling law L(N, D) = E + A / N^α + B / D^β: how the loss falls with parameters N and tokens D.

This is approach 3 of Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.3): L-BFGS minimises the Huber loss of log L
from a grid of starts. (Approach 2 is biased even without noise.) As Besiroglu et al. 2024 (arXiv 2404.10102) showed,
the loss must be summed, and the optimiser must not stop early; the loss is scaled here to suit the optimiser's
tolerances. Intervals come from a bootstrap over runs: with nine configurations, the 95% intervals of a bootstrap over
configurations cover the truth in only 65 to 78% of cases.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.comparison.statistics.paired import Interval

if TYPE_CHECKING:
    from numpy import ndarray

HUBER = 1e-3
LAW_RESAMPLES = 200
_N_STARTS, _N_POLISHED = 12, 2  # starts taken from the grid; rough solutions that are optimised further
_NEGLIGIBLE, _LOG_ZERO = 1e-3, -100.0  # the share of the loss below which a term counts as 0, and the log set for it
_LOG_HUGE = 700.0  # nearly the logarithm of the largest float
_N_TRIALS = 20  # resamples that also try the second start, before it is dropped
_STEPS_ROUGH, _STEPS, _STEPS_RESAMPLE = 200, 3_000, 500  # optimiser steps: from the grid, to the end, for a resample
_SEED = 0
# Hoffmann's grid of starts: log A, log B, log E, α, β.
_GRID = (range(0, 30, 5), range(0, 30, 5), (-1, -0.5, 0, 0.5, 1), (0, 0.5, 1, 1.5, 2), (0, 0.5, 1, 1.5, 2))


class NoLaw(ValueError):
    """The points don't follow a law of this form. The message gives the reason."""


@dataclass(frozen=True)
class ScalingPoint:
    """One run: its number of parameters, its training tokens, and its final loss in nats per token."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Law:
    """E + A / N^α + B / D^β."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """The law's loss in nats per token; infinite if it is too large for a float."""
        return self.e + _term(self.a, parameters, self.alpha) + _term(self.b, tokens, self.beta)

    @property
    def falls(self) -> bool:
        """Whether the loss falls with parameters and with tokens, and all constants are finite."""
        return min(self.alpha, self.beta) > 0 and math.isfinite(self.a + self.b + self.e)

    def has_floor_below(self, loss: float) -> bool:
        """Whether E is more than a hundredth of a loss: a smaller E has no measurable effect on how losses fall."""
        return self.e > 0.01 * loss

    @property
    def optimal_exponent(self) -> float:
        """β / (α + β): the optimal N grows as FLOPs to this power, the optimal D as FLOPs to 1 minus it."""
        return self.beta / (self.alpha + self.beta)


@dataclass(frozen=True)
class LawFit:
    """A fitted law and its uncertainty.

    Attributes:
        intervals: of e, a, b, alpha, beta and optimal_exponent: percentiles over the bootstrap's laws.
        laws: the laws fitted to the bootstrap's resamples.
        points: the runs that the law is fitted to.
        rms: root mean square of log(loss) - log(law's loss).
    """

    law: Law
    intervals: dict[str, Interval]
    laws: tuple[Law, ...]
    points: tuple[ScalingPoint, ...]
    rms: float

    @property
    def has_floor(self) -> bool:
        """Whether E is significantly above 0: at least the level's share of the bootstrap's laws have a floor."""
        least = min(point.loss for point in self.points)
        level = self.intervals["e"].level
        return sum(law.has_floor_below(least) for law in self.laws) >= level * len(self.laws)

    def band(self, parameters: float, tokens: float) -> Interval:
        """The bootstrap interval of the law's loss."""
        return _interval([law.loss(parameters, tokens) for law in self.laws], self.intervals["e"].level)


def fit_law(points: Sequence[ScalingPoint], *, level: float = 0.95, resamples: int = LAW_RESAMPLES) -> LawFit:
    """Fit the law to points for which `scaling.no_fit_reason` is None.

    Raises:
        NoLaw: the loss doesn't fall with parameters or with tokens, or the interval of an exponent contains 0.
    """
    import numpy as np

    n, d, y = (np.log([getattr(p, name) for p in points]) for name in ("parameters", "tokens", "loss"))
    problem = _Problem(n, d, y)
    ones = np.ones(len(points))
    rough = problem.solutions(_starts(problem), ones, _STEPS_ROUGH)
    best = problem.solutions(rough[:_N_POLISHED], ones, _STEPS)[0]
    best_law = problem.law(best)
    if not best_law.falls:
        raise NoLaw(f"the loss doesn't fall with {_least_certain([best_law])} as the law requires")
    generator = np.random.default_rng(_SEED)
    best, second_start = problem.starts_of_resample(best)
    laws: list[Law] = []
    second_helps = False
    for _ in range(resamples):
        # Random weights instead of draws with replacement (Rubin 1981): every resample has enough sizes for a fit.
        weights = generator.exponential(size=len(points))
        weights /= weights.mean()
        theta = problem.solutions([best], weights, _STEPS_RESAMPLE)[0]
        if second_start is not None and (second_helps or len(laws) < _N_TRIALS):
            other = problem.solutions([second_start], weights, _STEPS_RESAMPLE)[0]
            if problem.value(other, weights)[0] < problem.value(theta, weights)[0]:
                theta, second_helps = other, True
        laws.append(problem.law(theta))
    falling = [law for law in laws if law.falls]
    if len(laws) - len(falling) > (1 - level) / 2 * len(laws):
        raise NoLaw(f"the runs don't show that the loss falls with {_least_certain(laws)}")
    residuals = y - np.log([best_law.loss(point.parameters, point.tokens) for point in points])
    names = ("e", "a", "b", "alpha", "beta", "optimal_exponent")
    intervals = {name: _interval([getattr(law, name) for law in falling], level) for name in names}
    return LawFit(best_law, intervals, tuple(falling), tuple(points), float(np.sqrt(np.mean(residuals**2))))


def _least_certain(laws: Sequence[Law]) -> str:
    """`parameters` or `tokens`: the one with which the loss falls in fewer of the laws."""
    not_falling = {
        "parameters": sum(law.alpha <= 0 or not math.isfinite(law.a) for law in laws),
        "tokens": sum(law.beta <= 0 or not math.isfinite(law.b) for law in laws),
    }
    return max(not_falling, key=lambda name: not_falling[name])


def _term(scale: float, size: float, exponent: float) -> float:
    """scale / size^exponent; infinite if it is too large for a float."""
    if scale <= 0:
        return 0.0
    power = math.log(scale) - exponent * math.log(size)
    return math.exp(power) if power < _LOG_HUGE else math.inf


class _Problem:
    """The weighted Huber loss of log L as a function of θ = (a, b, e, α, β), with centred log N and log D.

    log L(N, D) = LSE(a - α (log N - mean), b - β (log D - mean), e).
    """

    def __init__(self, n: ndarray, d: ndarray, y: ndarray) -> None:
        self.n_mean, self.d_mean = float(n.mean()), float(d.mean())
        self.n, self.d, self.y = n - self.n_mean, d - self.d_mean, y

    def _terms(self, theta: ndarray) -> ndarray:
        """The logarithms of the law's three terms at every point [3, points]."""
        import numpy as np

        a, b, e, alpha, beta = theta
        return np.stack([a - alpha * self.n, b - beta * self.d, np.full_like(self.y, e)])

    def starts_of_resample(self, best: ndarray) -> tuple[ndarray, ndarray | None]:
        """The start for a resample and, if a term of the best law is negligible, a second start where it isn't.

        Gradient steps don't lead from one to the other. In the first start the negligible term is set to 0, since the
        optimiser would be slow to follow its vanishing gradient.
        """
        import numpy as np

        terms = self._terms(best)
        negligible = terms.max(axis=1) < np.log(_NEGLIGIBLE) + self.y.min()
        if not negligible.any():
            return best, None
        first, second = np.array(best), np.array(best)
        first[:3][negligible] = _LOG_ZERO
        second[:3][negligible] = self.y.min() - np.log(3)
        second[3:][negligible[:2]] = 0.5
        return first, second

    def value(self, theta: ndarray, weights: ndarray) -> tuple[float, ndarray]:
        """The loss in units of HUBER², and its gradient."""
        import numpy as np

        terms = self._terms(theta)
        top = terms.max(axis=0)
        shares = np.exp(terms - top)
        total = shares.sum(axis=0)
        shares /= total
        r = (top + np.log(total) - self.y) / HUBER
        size = np.abs(r)
        loss = np.where(size <= 1, r**2 / 2, size - 0.5)
        loss_gradient = weights * np.clip(r, -1, 1) / HUBER  # by the law's log loss at every point
        gradient = shares @ loss_gradient
        slopes = [-(shares[0] * self.n) @ loss_gradient, -(shares[1] * self.d) @ loss_gradient]
        return float(weights @ loss), np.concatenate([gradient, slopes])

    def solutions(self, starts: Iterable[ndarray], weights: ndarray, steps: int) -> list[ndarray]:
        """The θ that L-BFGS finds from each start in at most `steps` steps, the best first."""
        from scipy.optimize import minimize

        options = {"maxiter": steps, "maxfun": steps, "ftol": 1e-14, "gtol": 1e-8, "maxcor": 20}
        results = [minimize(self.value, start, (weights,), "L-BFGS-B", jac=True, options=options) for start in starts]
        return [result.x for result in sorted(results, key=lambda result: float(result.fun))]

    def law(self, theta: ndarray) -> Law:
        import numpy as np

        a, b, e, alpha, beta = map(float, theta)
        with np.errstate(over="ignore"):  # a law of the bootstrap may be infinite
            scales = [float(x) for x in np.exp([e, a + alpha * self.n_mean, b + beta * self.d_mean])]
        return Law(scales[0], scales[1], scales[2], alpha, beta)


def _starts(problem: _Problem) -> list[ndarray]:
    """The starts of Hoffmann's grid that have the lowest loss."""
    import numpy as np

    blocks, losses = [], []
    for alpha, beta in itertools.product(*_GRID[3:]):
        starts = np.array(
            [
                (a - alpha * problem.n_mean, b - beta * problem.d_mean, e, alpha, beta)
                for a, b, e in itertools.product(*_GRID[:3])
            ]
        )
        a, b, e = starts.T[:3, :, None]
        law = np.logaddexp(np.logaddexp(a - alpha * problem.n, b - beta * problem.d), e)
        size = np.abs(law - problem.y) / HUBER
        blocks.append(starts)
        losses.append(np.where(size <= 1, size**2 / 2, size - 0.5).sum(axis=1))
    candidates = np.concatenate(blocks)
    return [candidates[i] for i in np.argsort(np.concatenate(losses), kind="stable")[:_N_STARTS]]


def _interval(values: Sequence[float], level: float) -> Interval:
    import numpy as np

    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high), level)

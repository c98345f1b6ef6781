"""L(N, D) = E + A / N^α + B / D^β fitted to runs: how the loss falls with parameters and tokens.

Approach 3 of Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.3): the Huber loss of log L, minimised by L-BFGS from a
grid of starts. Approach 2 is biased even without noise. As Besiroglu et al. 2024 (arXiv 2404.10102) found, the loss
must be summed and the optimiser not stop early: it is scaled here so that tolerances mean something. Intervals are from
a bootstrap over the runs: one over the configurations covers 65 to 78% for 95% where there are nine of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lab.comparison.statistics.paired import Interval

HUBER = 1e-3
RESAMPLES = 200
_STARTED, _POLISHED = 12, 2  # of the grid's starts the best, and of what these come to
_NOTHING, _GONE = 1e-3, -100.0  # of the loss, and the logarithm of a term that is nothing
_HUGE = 700.0  # the logarithm of nearly the largest number there is
_PROBED = 20  # resamples that are tried from another start before it is given up
_STEPS_ROUGH, _STEPS, _STEPS_AGAIN = 200, 3_000, 500  # of the optimiser: from the grid, to the end, of a resample
_SEED = 0
# Hoffmann's starts: log A and log B, log E, α and β.
_GRID = (range(0, 30, 5), range(0, 30, 5), (-1, -0.5, 0, 0.5, 1), (0, 0.5, 1, 1.5, 2), (0, 0.5, 1, 1.5, 2))


class NoLaw(ValueError):
    """The points are of no such law."""


@dataclass(frozen=True)
class Point:
    """One run: its parameters, the tokens that it trained on, its final loss in nats per token."""

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
        """Nats per token; infinite where that is beyond floating point."""
        return self.e + _term(self.a, parameters, self.alpha) + _term(self.b, tokens, self.beta)

    @property
    def falls(self) -> bool:
        """Whether loss falls with parameters and with tokens, and the law's numbers are ones."""
        return min(self.alpha, self.beta) > 0 and math.isfinite(self.a + self.b + self.e)

    def floors(self, loss: float) -> bool:
        """Whether E is more than a hundredth of a loss: below that, losses fall as if there were no floor."""
        return self.e > 0.01 * loss

    @property
    def optimal_exponent(self) -> float:
        """The optimal N grows as FLOPs to this power, β / (α + β); the optimal D as FLOPs to what is left of 1."""
        return self.beta / (self.alpha + self.beta)


@dataclass(frozen=True)
class Fit:
    """A law and how sure it is.

    Attributes:
        intervals: of e, a, b, alpha, beta and optimal_exponent: percentiles of the bootstrap's laws.
        laws: the bootstrap's, for a band about a curve.
        rms: root mean square of log(loss) - log(law).
    """

    law: Law
    intervals: dict[str, Interval]
    laws: tuple[Law, ...]
    points: tuple[Point, ...]
    rms: float

    @property
    def has_floor(self) -> bool:
        """Whether the runs tell E from 0: whether all but a few of the bootstrap's laws have one."""
        least = min(point.loss for point in self.points)
        level = self.intervals["e"].level
        return sum(law.floors(least) for law in self.laws) >= level * len(self.laws)

    def band(self, parameters: float, tokens: float) -> Interval:
        """The bootstrap's interval of the law's loss."""
        return _interval([law.loss(parameters, tokens) for law in self.laws], self.intervals["e"].level)


def fit(points: Sequence[Point], *, level: float = 0.95, resamples: int = RESAMPLES) -> Fit:
    """Fit the law to points that `refusal` has nothing against.

    Raises:
        NoLaw: the loss doesn't fall with parameters or with tokens, or the interval of an exponent holds 0.
    """
    import numpy as np

    n, d, y = (np.log([getattr(p, name) for p in points]) for name in ("parameters", "tokens", "loss"))
    problem = _Problem(n, d, y)
    ones = np.ones(len(points))
    rough = problem.solutions(_starts(problem), ones, _STEPS_ROUGH)
    best = problem.solutions(rough[:_POLISHED], ones, _STEPS)[0]
    law = problem.law(best)
    if not law.falls:
        raise NoLaw(f"the loss doesn't fall with {_flat([law])} as a law would have it")
    generator = np.random.default_rng(_SEED)
    best, beside = problem.beside(best)
    laws: list[Law] = []
    nearer = False
    for _ in range(resamples):
        # Weights rather than a draw with replacement (Rubin 1981): no resample is left with too few sizes for a fit.
        weights = generator.exponential(size=len(points))
        weights /= weights.mean()
        found = problem.solutions([best], weights, _STEPS_AGAIN)[0]
        if beside is not None and (nearer or len(laws) < _PROBED):
            other = problem.solutions([beside], weights, _STEPS_AGAIN)[0]
            if problem.value(other, weights)[0] < problem.value(found, weights)[0]:
                found, nearer = other, True
        laws.append(problem.law(found))
    falling = [each for each in laws if each.falls]
    if len(laws) - len(falling) > (1 - level) / 2 * len(laws):
        raise NoLaw(f"the runs don't tell that the loss falls with {_flat(laws)}")
    residuals = y - np.log([law.loss(point.parameters, point.tokens) for point in points])
    names = ("e", "a", "b", "alpha", "beta", "optimal_exponent")
    intervals = {name: _interval([getattr(each, name) for each in falling], level) for name in names}
    return Fit(law, intervals, tuple(falling), tuple(points), float(np.sqrt(np.mean(residuals**2))))


def _flat(laws: Sequence[Law]) -> str:
    """What the loss falls with in the fewest of the laws."""
    rising = {
        "parameters": sum(law.alpha <= 0 or not math.isfinite(law.a) for law in laws),
        "tokens": sum(law.beta <= 0 or not math.isfinite(law.b) for law in laws),
    }
    return max(rising, key=lambda name: rising[name])


def _term(scale: float, size: float, exponent: float) -> float:
    """scale / size^exponent."""
    if scale <= 0:
        return 0.0
    power = math.log(scale) - exponent * math.log(size)
    return math.exp(power) if power < _HUGE else math.inf


class _Problem:
    """Weighted Huber loss of log L in θ = (a, b, e, α, β), with log N and log D about their means.

    log L(N, D) = LSE(a - α (log N - mean), b - β (log D - mean), e).
    """

    def __init__(self, n: Any, d: Any, y: Any) -> None:
        self.n_mean, self.d_mean = float(n.mean()), float(d.mean())
        self.n, self.d, self.y = n - self.n_mean, d - self.d_mean, y

    def _terms(self, theta: Any) -> Any:
        """Logarithms of the law's three terms at every point [3, points]."""
        import numpy as np

        a, b, e, alpha, beta = theta
        return np.stack([a - alpha * self.n, b - beta * self.d, np.full_like(self.y, e)])

    def beside(self, best: Any) -> tuple[Any, Any | None]:
        """Two starts for a resample where a term of the best law is nothing: without it, and with it.

        No gradient leads from the one to the other, and halfway a search for the end of a slope without one is long.
        """
        import numpy as np

        terms = self._terms(best)
        gone = terms.max(axis=1) < np.log(_NOTHING) + self.y.min()
        if not gone.any():
            return best, None
        without, other = np.array(best), np.array(best)
        without[:3][gone] = _GONE
        other[:3][gone] = self.y.min() - np.log(3)
        other[3:][gone[:2]] = 0.5
        return without, other

    def value(self, theta: Any, weights: Any) -> tuple[float, Any]:
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
        pull = weights * np.clip(r, -1, 1) / HUBER
        gradient = shares @ pull
        slopes = [-(shares[0] * self.n) @ pull, -(shares[1] * self.d) @ pull]
        return float(weights @ loss), np.concatenate([gradient, slopes])

    def solutions(self, starts: Iterable[Any], weights: Any, steps: int) -> list[Any]:
        """What L-BFGS makes of each start in so many steps, the best θ first."""
        from scipy.optimize import minimize

        options = {"maxiter": steps, "maxfun": steps, "ftol": 1e-14, "gtol": 1e-8, "maxcor": 20}
        found = [minimize(self.value, start, (weights,), "L-BFGS-B", jac=True, options=options) for start in starts]
        return [each.x for each in sorted(found, key=lambda each: float(each.fun))]

    def law(self, theta: Any) -> Law:
        import numpy as np

        a, b, e, alpha, beta = map(float, theta)
        with np.errstate(over="ignore"):  # far out in a bootstrap: infinite
            scales = [float(x) for x in np.exp([e, a + alpha * self.n_mean, b + beta * self.d_mean])]
        return Law(scales[0], scales[1], scales[2], alpha, beta)


def _starts(problem: _Problem) -> list[Any]:
    """The best starts of Hoffmann's grid, by their loss before any step."""
    import numpy as np

    tried, losses = [], []
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
        tried.append(starts)
        losses.append(np.where(size <= 1, size**2 / 2, size - 0.5).sum(axis=1))
    every = np.concatenate(tried)
    return [every[i] for i in np.argsort(np.concatenate(losses), kind="stable")[:_STARTED]]


def _interval(values: Sequence[float], level: float) -> Interval:
    import numpy as np

    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high), level)

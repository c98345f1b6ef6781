"""How the loss falls with parameters and tokens: L(N, D) = E + A / N^α + B / D^β, fitted to a sweep that spans both.

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

from lab.comparison.results import Sweep
from lab.comparison.statistics import Interval

HUBER = 1e-3
SIZES, BUDGETS, COMBINATIONS = 3, 3, 6
"""The fewest different N, D and pairs of them that five parameters are fitted to."""
SPAN = 2.0
"""The largest N is to be so many times the smallest, and D likewise."""
RESAMPLES = 200
_POLISHED = 12  # of the grid's starts, the best
_NOTHING = 1e-3  # of the loss
_SEED = 0
# Hoffmann's starts: log A and log B, log E, α and β.
_GRID = (range(0, 30, 5), range(0, 30, 5), (-1, -0.5, 0, 0.5, 1), (0, 0.5, 1, 1.5, 2), (0, 0.5, 1, 1.5, 2))
_SIZE_AXES = {"n_layers", "d_model", "d_ff", "n_heads", "n_kv_heads", "head_dim", "tokens"}


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
        """Nats per token."""
        return float(self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta)

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


@dataclass(frozen=True)
class Scaling:
    """The fit of one architecture's sizes.

    Attributes:
        group: what its arms share: axis → value, of the axes that aren't sizes; empty where all arms are one group.
        reason: why there is no fit; None where there is.
    """

    group: dict[str, Any]
    arms: tuple[str, ...]
    fit: Fit | None
    reason: str | None


def scaling(
    sweep: Sweep, metric: str = "val/loss", *, level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[Scaling, ...]:
    """A fit for each group of arms that differ in size and tokens alone, every finished run a point.

    A diverged run is no point; nor is one whose arm's parameters or tokens aren't known.
    """
    groups: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for arm in sweep.arms.values():
        kind = {axis: value for axis, value in arm.axes.items() if axis.rsplit(".", 1)[-1] not in _SIZE_AXES}
        groups.setdefault(repr(sorted(kind.items())), (kind, []))[1].append(arm.name)
    found = []
    for kind, arms in groups.values():
        points = [point for name in arms for point in _points(sweep, name, metric)]
        reason = refusal(points)
        found.append(
            Scaling(kind, tuple(arms), None if reason else fit(points, level=level, resamples=resamples), reason)
        )
    return tuple(found)


def refusal(points: Sequence[Point]) -> str | None:
    """Why no law can be fitted to the points; None where one can."""
    if any(not (math.isfinite(point.loss) and point.loss > 0) for point in points):
        return "a loss isn't a positive number"
    sizes, budgets = {point.parameters for point in points}, {point.tokens for point in points}
    pairs = {(point.parameters, point.tokens) for point in points}
    for what, values, fewest in (("sizes", sizes, SIZES), ("token budgets", budgets, BUDGETS)):
        if len(values) < fewest:
            return f"{len(values)} different {what} with a result; a fit takes {fewest}"
        if max(values) < SPAN * min(values):
            times = f"{max(values) / min(values):.2g}"
            return f"the largest of the {what} is {times} times the smallest; a fit takes {SPAN:g}"
    if len(pairs) < COMBINATIONS:
        return f"{len(pairs)} different pairs of size and tokens with a result; a fit takes {COMBINATIONS}"
    if _in_step(pairs):
        return "tokens grow in step with parameters, so that what each does can't be told apart"
    return None


def fit(points: Sequence[Point], *, level: float = 0.95, resamples: int = RESAMPLES) -> Fit:
    """Fit the law to points that `refusal` has nothing against."""
    import numpy as np

    n, d, y = (np.log([getattr(p, name) for p in points]) for name in ("parameters", "tokens", "loss"))
    problem = _Problem(n, d, y)
    ones = np.ones(len(points))
    best = problem.solve(_starts(problem), ones)
    law = problem.law(best)
    generator = np.random.default_rng(_SEED)
    laws, beside = [], problem.beside(best)
    for _ in range(resamples):
        # Weights rather than a draw with replacement (Rubin 1981): no resample is left with too few sizes for a fit.
        weights = generator.exponential(size=len(points))
        weights /= weights.mean()
        found = problem.solve([best], weights)
        if beside is not None:
            other = problem.solve([beside], weights, tolerance=1e-6)
            if problem.value(other, weights)[0] < problem.value(found, weights)[0]:
                found = problem.solve([other], weights)
        laws.append(problem.law(found))
    residuals = y - np.log([law.loss(point.parameters, point.tokens) for point in points])
    names = ("e", "a", "b", "alpha", "beta", "optimal_exponent")
    intervals = {name: _interval([getattr(each, name) for each in laws], level) for name in names}
    return Fit(law, intervals, tuple(laws), tuple(points), float(np.sqrt(np.mean(residuals**2))))


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

    def beside(self, best: Any) -> Any | None:
        """Another start for a resample where a term of the best law is nothing: no gradient leads back from there."""
        import numpy as np

        terms = self._terms(best)
        gone = terms.max(axis=1) < np.log(_NOTHING) + self.y.min()
        if not gone.any():
            return None
        other = np.array(best)
        other[:3][gone] = self.y.min() - np.log(3)
        other[3:][gone[:2]] = 0.5
        return other

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

    def solve(self, starts: Iterable[Any], weights: Any, tolerance: float = 1e-14) -> Any:
        """The best θ that L-BFGS finds from the starts."""
        from scipy.optimize import minimize

        options = {"maxiter": 5_000, "maxfun": 20_000, "ftol": tolerance, "gtol": 1e-8, "maxcor": 20}
        found = [minimize(self.value, start, (weights,), "L-BFGS-B", jac=True, options=options) for start in starts]
        return min(found, key=lambda each: float(each.fun)).x

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
    return [every[i] for i in np.argsort(np.concatenate(losses), kind="stable")[:_POLISHED]]


def _points(sweep: Sweep, name: str, metric: str) -> list[Point]:
    arm = sweep.arms[name]
    n, d = arm.costs.get("parameters"), arm.costs.get("tokens")
    found = []
    for seed, loss in arm.values(metric).items():
        tokens = d if d is not None else arm.runs[seed].costs.get("tokens")
        if n and tokens and math.isfinite(loss):
            found.append(Point(n, tokens, loss))
    return found


def _in_step(pairs: Iterable[tuple[float, float]]) -> bool:
    """Whether log D is all but a straight line in log N."""
    import numpy as np

    n, d = np.log(list(pairs)).T
    return bool(abs(np.corrcoef(n, d)[0, 1]) > 0.98)


def _interval(values: Sequence[float], level: float) -> Interval:
    import numpy as np

    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high), level)

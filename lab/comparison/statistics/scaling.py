"""How a sweep's loss falls with parameters and tokens: a law for each of its architectures, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.comparison.read.results import SweepResults
from lab.comparison.statistics.scaling_law import RESAMPLES, LawFit, NoLaw, Point, fit

SIZES, BUDGETS, COMBINATIONS = 3, 3, 6
"""The fewest different N, D and pairs of them that the five parameters of the law are fitted to."""
SPAN = 2.0
"""The largest N must be at least this many times the smallest, and likewise the largest D."""
_SIZE_AXES = {"n_layers", "d_model", "d_ff", "n_heads", "n_kv_heads", "head_dim", "tokens"}


@dataclass(frozen=True)
class Scaling:
    """The law fitted to the sizes of one architecture.

    Attributes:
        group: what its arms have in common: axis → value, without the axes that are sizes; empty for a single group.
        reason: why there is no fit; None if there is.
    """

    group: dict[str, object]
    arms: tuple[str, ...]
    fit: LawFit | None
    reason: str | None


def scaling(
    sweep: SweepResults, metric: str = "val/loss", *, level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[Scaling, ...]:
    """A fit for each group of arms that differ in size and tokens alone; every finished run is a point.

    Runs that diverged are no points, nor are those whose parameters or tokens aren't known.
    """
    groups: dict[str, tuple[dict[str, object], list[str]]] = {}
    for arm in sweep.arms.values():
        group = {axis: value for axis, value in arm.axes.items() if axis.rsplit(".", 1)[-1] not in _SIZE_AXES}
        groups.setdefault(repr(sorted(group.items())), (group, []))[1].append(arm.name)
    results = []
    for group, arms in groups.values():
        points = [point for name in arms for point in _points(sweep, name, metric)]
        reason, law = refusal(points), None
        if reason is None:
            try:
                law = fit(points, level=level, resamples=resamples)
            except NoLaw as error:
                reason = str(error)
        results.append(Scaling(group, tuple(arms), law, reason))
    return tuple(results)


def refusal(points: Sequence[Point]) -> str | None:
    """Why no law can be fitted to the points; None if one can."""
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
    if _grow_together(pairs):
        return "tokens grow in step with parameters, so that what each does can't be told apart"
    return None


def _points(sweep: SweepResults, name: str, metric: str) -> list[Point]:
    arm = sweep.arms[name]
    points = []
    for seed, loss in arm.values(metric).items():
        parameters, tokens = arm.costs.get("parameters"), arm.tokens(seed)
        if parameters and tokens and math.isfinite(loss):
            points.append(Point(parameters, tokens, loss))
    return points


def _grow_together(pairs: Iterable[tuple[float, float]]) -> bool:
    """Whether log D is nearly a straight line in log N."""
    import numpy as np

    n, d = np.log(list(pairs)).T
    return bool(abs(np.corrcoef(n, d)[0, 1]) > 0.98)

"""Scaling of a sweep's loss with parameters and tokens: a fitted law for each architecture, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.comparison.read.results import SweepResults
from lab.comparison.statistics.scaling_law import LAW_RESAMPLES, LawFit, NoLaw, ScalingPoint, fit_law

SIZES, BUDGETS, COMBINATIONS = 3, 3, 6
"""The fewest different N, different D, and different pairs (N, D) that the law's five parameters are fitted to."""
SPAN = 2.0
"""The largest N must be at least this many times the smallest N; the same holds for D."""
_SIZE_AXES = {"n_layers", "d_model", "d_ff", "n_heads", "n_kv_heads", "head_dim", "tokens"}


@dataclass(frozen=True)
class Scaling:
    """The law fitted to the sizes of one architecture.

    Attributes:
        group: axis → value that the arms have in common, without the axes that set size or tokens; empty if there are
            no other axes.
        arms: the names of the arms.
        fit: None if the law can't be fitted.
        reason: why there is no fit; None if there is one.
    """

    group: dict[str, object]
    arms: tuple[str, ...]
    fit: LawFit | None
    reason: str | None


def scaling(
    sweep: SweepResults, metric: str = "val/loss", *, level: float = 0.95, resamples: int = LAW_RESAMPLES
) -> tuple[Scaling, ...]:
    """A fit for each group of arms that differ only in size and tokens.

    Every finished run whose parameters and tokens are known is a point of the fit.
    """
    groups: dict[str, tuple[dict[str, object], list[str]]] = {}
    for arm in sweep.arms.values():
        group = {axis: value for axis, value in arm.axes.items() if axis.rsplit(".", 1)[-1] not in _SIZE_AXES}
        groups.setdefault(repr(sorted(group.items())), (group, []))[1].append(arm.name)
    results = []
    for group, arms in groups.values():
        points = [point for name in arms for point in _points(sweep, name, metric)]
        reason, law = no_fit_reason(points), None
        if reason is None:
            try:
                law = fit_law(points, level=level, resamples=resamples)
            except NoLaw as error:
                reason = str(error)
        results.append(Scaling(group, tuple(arms), law, reason))
    return tuple(results)


def no_fit_reason(points: Sequence[ScalingPoint]) -> str | None:
    """Why no law can be fitted to the points; None if one can."""
    if any(not (math.isfinite(point.loss) and point.loss > 0) for point in points):
        return "a loss isn't a positive number"
    sizes, budgets = {point.parameters for point in points}, {point.tokens for point in points}
    pairs = {(point.parameters, point.tokens) for point in points}
    for quantity, values, fewest in (("sizes", sizes, SIZES), ("token budgets", budgets, BUDGETS)):
        if len(values) < fewest:
            return f"{len(values)} different {quantity} with a result; a fit needs {fewest}"
        if max(values) < SPAN * min(values):
            ratio = f"{max(values) / min(values):.2g}"
            return f"the largest of the {quantity} is {ratio} times the smallest; a fit needs {SPAN:g} times"
    if len(pairs) < COMBINATIONS:
        return f"{len(pairs)} different pairs of size and tokens with a result; a fit needs {COMBINATIONS}"
    if _grow_together(pairs):
        return "tokens grow in proportion to parameters, so their effects can't be separated"
    return None


def _points(sweep: SweepResults, name: str, metric: str) -> list[ScalingPoint]:
    arm = sweep.arms[name]
    points = []
    for seed, loss in arm.values(metric).items():
        parameters, tokens = arm.costs.get("parameters"), arm.tokens(seed)
        if parameters and tokens and math.isfinite(loss):
            points.append(ScalingPoint(parameters, tokens, loss))
    return points


def _grow_together(pairs: Iterable[tuple[float, float]]) -> bool:
    """Whether log D is nearly a linear function of log N."""
    import numpy as np

    n, d = np.log(list(pairs)).T
    return bool(abs(np.corrcoef(n, d)[0, 1]) > 0.98)

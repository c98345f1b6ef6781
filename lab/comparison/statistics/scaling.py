"""How a sweep's loss falls with parameters and tokens: a law for each architecture in it, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lab.comparison.read.results import Sweep
from lab.comparison.statistics.scaling_law import RESAMPLES, Fit, NoLaw, Point, fit

SIZES, BUDGETS, COMBINATIONS = 3, 3, 6
"""The fewest different N, D and pairs of them that five parameters are fitted to."""
SPAN = 2.0
"""The largest N is to be so many times the smallest, and D likewise."""
_SIZE_AXES = {"n_layers", "d_model", "d_ff", "n_heads", "n_kv_heads", "head_dim", "tokens"}


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
        reason, fitted = refusal(points), None
        if reason is None:
            try:
                fitted = fit(points, level=level, resamples=resamples)
            except NoLaw as error:
                reason = str(error)
        found.append(Scaling(kind, tuple(arms), fitted, reason))
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

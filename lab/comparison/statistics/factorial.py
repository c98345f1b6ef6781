"""Main effects and pairwise interactions of a grid's axes, each as a contrast within the seeds.

In a grid, every arm is evidence about every axis: an effect is a mean over all cells. Seeds are blocks: each contrast
is computed in every seed and tested by a paired t test over the seeds, so that its error is its own variation from seed
to seed. For two levels this equals the F test of a repeated-measures analysis of variance. Only a full grid has
effects: no cell may be missing, and only the seeds that have a result in all cells count.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lab.comparison.read.results import ArmResults, SweepResults
from lab.comparison.statistics.paired import Interval, holm, merge_rounding, sample, t_interval, t_test_p

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Factor:
    """An axis, or several axes that change together, with its levels.

    Attributes:
        name: the axes' names, joined by " & ".
        levels: written as in the sweep's file. The first is the reference: the level of the baseline or, without a
            baseline, of the first arm.
    """

    name: str
    levels: tuple[str, ...]

    @property
    def reference(self) -> str:
        return self.levels[0]


@dataclass(frozen=True)
class Effect:
    """A contrast between the levels of one factor, or the interaction of two.

    Attributes:
        factors: one name, or two.
        levels: one level of each factor, which is compared with the factor's reference.
        references: the reference of each factor.
        values: the contrast in each seed. For one factor it is the mean over the other factors of
            y(level) - y(reference); for two, y(a, b) - y(a₀, b) - y(a, b₀) + y(a₀, b₀): how much the effect of one
            factor depends on the other.
        mean: the mean of the values.
        sd: their sample standard deviation; None for one seed.
        interval: the t interval of the mean; None for one seed.
        p: the p-value of the two-sided t test; None for one seed.
        p_holm: `p` corrected for the number of effects on this metric.
    """

    factors: tuple[str, ...]
    levels: tuple[str, ...]
    references: tuple[str, ...]
    values: tuple[float, ...]
    mean: float
    sd: float | None
    interval: Interval | None
    p: float | None
    p_holm: float | None = None

    @property
    def name(self) -> str:
        """`model/heads: mha less gqa`; for two factors, `model/heads mha (not gqa) × model.span.window 64 (not 16)`."""
        if len(self.factors) == 1:
            return f"{self.factors[0]}: {self.levels[0]} less {self.references[0]}"
        parts = zip(self.factors, self.levels, self.references, strict=True)
        return " × ".join(f"{factor} {level} (not {reference})" for factor, level, reference in parts)


@dataclass(frozen=True)
class Factorial:
    """The effects on one metric, or why there are none.

    Attributes:
        factors: empty if fewer than two axes vary.
        effects: main effects, then interactions; corrected together.
        seeds: the seeds with a result in every cell; the effects are computed from these.
        lacking: (seed, arms) for each seed that is left out: the arms that have no finite value for it.
        reason: why there are no effects; None if there are.
    """

    metric: str
    factors: tuple[Factor, ...] = ()
    effects: tuple[Effect, ...] = ()
    seeds: tuple[int, ...] = ()
    lacking: tuple[tuple[int, tuple[str, ...]], ...] = ()
    reason: str | None = None


def factorial(sweep: SweepResults, metric: str, *, level: float = 0.95) -> Factorial:
    """The effects of a sweep's axes on a metric."""
    import numpy as np

    arms = list(sweep.arms.values())
    factors, cell_of_arm = _design(sweep)
    if len(factors) < 2:
        return Factorial(metric, reason="fewer than two axes vary: the differences from the baseline are the effects")
    design = Factorial(metric, factors)
    cells: dict[tuple[int, ...], ArmResults] = {}
    for arm in arms:
        first = cells.setdefault(cell_of_arm[arm.name], arm)
        if first is not arm:
            return replace(design, reason=f"arms {first.name} and {arm.name} have the same values on all axes")
    shape = tuple(len(factor.levels) for factor in factors)
    empty = math.prod(shape) - len(cells)
    if empty:
        return replace(design, reason=f"{empty:,} of {math.prod(shape):,} cells have no arm{_example(factors, cells)}")
    values = {arm.name: arm.values(metric) for arm in arms}
    all_seeds = sorted({seed for arm in arms for seed in arm.runs})
    lacking = {seed: tuple(name for name in values if not _is_finite(values[name], seed)) for seed in all_seeds}
    seeds = tuple(seed for seed in all_seeds if not lacking[seed])
    design = replace(design, seeds=seeds, lacking=tuple((seed, names) for seed, names in lacking.items() if names))
    if not seeds:
        return replace(design, reason="no seed has a result in every cell")
    y = np.empty((*shape, len(seeds)))
    for cell, arm in cells.items():
        y[cell] = [values[arm.name][seed] for seed in seeds]
    effects = list(_effects(y, factors, level))
    p_holm = holm({number: effect.p for number, effect in enumerate(effects)})
    return replace(design, effects=tuple(replace(effect, p_holm=p_holm[n]) for n, effect in enumerate(effects)))


def _design(sweep: SweepResults) -> tuple[tuple[Factor, ...], dict[str, tuple[int, ...]]]:
    """The factors, and the cell of each arm: the index of its level of each factor."""
    first = sweep.arms.get(sweep.baseline) or next(iter(sweep.arms.values()))
    arms = [first, *(arm for arm in sweep.arms.values() if arm is not first)]
    columns = {axis: tuple(_text(arm.axes.get(axis)) for arm in arms) for axis in sweep.axes}
    groups: list[list[str]] = []  # axes that change together
    for axis, column in columns.items():
        if len(set(column)) < 2:
            continue
        group = next((group for group in groups if _change_together(columns[group[0]], column)), None)
        if group is None:
            groups.append([axis])
        else:
            group.append(axis)
    factors, numbers = [], []
    for group in groups:
        levels = [", ".join(texts) for texts in zip(*(columns[axis] for axis in group), strict=True)]
        number = {level: n for n, level in enumerate(dict.fromkeys(levels))}
        factors.append(Factor(" & ".join(group), tuple(number)))
        numbers.append([number[level] for level in levels])
    cells = zip(*numbers, strict=True) if numbers else [()] * len(arms)
    return tuple(factors), {arm.name: tuple(cell) for arm, cell in zip(arms, cells, strict=True)}


def _is_finite(values: dict[int, float], seed: int) -> bool:
    return math.isfinite(values.get(seed, math.nan))


def _change_together(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    return len(set(a)) == len(set(b)) == len(set(zip(a, b, strict=True)))


def _effects(y: np.ndarray, factors: tuple[Factor, ...], level: float) -> Iterator[Effect]:
    """Main effects and interactions of y [levels of factor 0, levels of factor 1, …, seeds]."""
    numbers = range(len(factors))
    sizes = abs(y).max(axis=tuple(numbers)).tolist()  # the largest absolute value of each seed
    for f in numbers:
        means = y.mean(axis=tuple(other for other in numbers if other != f))  # [levels, seeds]
        for i in range(1, len(factors[f].levels)):
            yield _effect((factors[f],), (i,), means[i] - means[0], sizes, level)
    for f, g in itertools.combinations(numbers, 2):
        means = y.mean(axis=tuple(other for other in numbers if other not in (f, g)))  # [levels, levels, seeds]
        for i, j in itertools.product(range(1, means.shape[0]), range(1, means.shape[1])):
            contrast = means[i, j] - means[0, j] - means[i, 0] + means[0, 0]
            yield _effect((factors[f], factors[g]), (i, j), contrast, sizes, level)


def _effect(
    factors: tuple[Factor, ...], levels: tuple[int, ...], contrast: np.ndarray, sizes: Sequence[float], level: float
) -> Effect:
    values = merge_rounding(contrast.tolist(), sizes)
    over_seeds = sample(dict(enumerate(values)))
    assert over_seeds.mean is not None
    mean, sd, n = over_seeds.mean, over_seeds.sd, over_seeds.n
    return Effect(
        factors=tuple(factor.name for factor in factors),
        levels=tuple(factor.levels[number] for factor, number in zip(factors, levels, strict=True)),
        references=tuple(factor.reference for factor in factors),
        values=values,
        mean=mean,
        sd=sd,
        interval=None if sd is None else t_interval(mean, sd, n, level),
        p=None if sd is None else t_test_p(mean, sd, n),
    )


def _example(factors: tuple[Factor, ...], cells: dict[tuple[int, ...], ArmResults]) -> str:
    """The first cell without an arm; empty if none of the first ten thousand cells is one."""
    for cell in itertools.islice(itertools.product(*(range(len(factor.levels)) for factor in factors)), 10_000):
        if cell not in cells:
            levels = (f"{factor.name}={factor.levels[i]}" for factor, i in zip(factors, cell, strict=True))
            return f", such as {', '.join(levels)}"
    return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)

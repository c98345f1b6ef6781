"""Main effects and pairwise interactions of a grid's axes, each as a contrast within the seeds.

In a grid every arm tells something of every axis: an effect is the mean over all cells, so that it is told with the
seeds of the whole grid. Each contrast is worked out in every seed and judged by the paired t test over them: seeds are
blocks, and what an effect varies by from seed to seed is its own error (of two levels, the F test of an analysis of
variance with repeated measures). Only a full grid is looked at: no cell missing, each seed in all of them.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lab.comparison.read.results import Arm, Sweep
from lab.comparison.statistics.paired import Interval, finite, holm, sample, steadied, t_interval, t_test_p


@dataclass(frozen=True)
class Factor:
    """An axis, or axes that go in step, with its levels.

    Attributes:
        name: the axes' names, joined by " & ".
        levels: as the sweep's file writes them, the reference first: the baseline's, else that of the first arm.
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
        levels: of each, the level that is looked at, beside its factor's reference.
        values: the contrast in each seed: the mean over the other factors of y(level) - y(reference), for two factors
            y(a, b) - y(a₀, b) - y(a, b₀) + y(a₀, b₀): by how much the effect of one changes with the other. All the
            same where they are but for rounding.
        interval: the t interval of the mean over seeds; None for one seed.
        p: of the two-sided t test; p_holm: corrected for the number of effects of this metric.
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
        """`model/heads: mha less gqa`; of two, `model/heads mha (not gqa) × model.span.window 64 (not 16)`."""
        if len(self.factors) == 1:
            return f"{self.factors[0]}: {self.levels[0]} less {self.references[0]}"
        each = zip(self.factors, self.levels, self.references, strict=True)
        return " × ".join(f"{factor} {level} (not {reference})" for factor, level, reference in each)


@dataclass(frozen=True)
class Factorial:
    """The effects on one metric, or why there are none.

    Attributes:
        factors: empty where fewer than two axes vary.
        effects: main effects, then interactions; corrected together.
        seeds: that every cell has: what the effects are worked out in.
        lacking: seed → the arms that have no finite value there; such seeds are left out whole.
        reason: why there are no effects; None where there are.
    """

    metric: str
    factors: tuple[Factor, ...] = ()
    effects: tuple[Effect, ...] = ()
    seeds: tuple[int, ...] = ()
    lacking: tuple[tuple[int, tuple[str, ...]], ...] = ()
    reason: str | None = None

    @property
    def main(self) -> tuple[Effect, ...]:
        return tuple(effect for effect in self.effects if len(effect.factors) == 1)

    @property
    def interactions(self) -> tuple[Effect, ...]:
        return tuple(effect for effect in self.effects if len(effect.factors) == 2)


def factorial(sweep: Sweep, metric: str, *, level: float = 0.95) -> Factorial:
    """The effects of a sweep's axes on a metric."""
    import numpy as np

    arms = list(sweep.arms.values())
    factors, place = _design(sweep)
    if len(factors) < 2:
        return Factorial(metric, reason="fewer than two axes vary: the differences from the baseline are the effects")
    found = Factorial(metric, factors)
    cells: dict[tuple[int, ...], Arm] = {}
    for arm in arms:
        twin = cells.setdefault(place[arm.name], arm)
        if twin is not arm:
            return replace(found, reason=f"arms {twin.name} and {arm.name} stand in the same cell of the axes")
    shape = tuple(len(factor.levels) for factor in factors)
    absent = math.prod(shape) - len(cells)
    if absent:
        return replace(found, reason=f"{absent:,} of {math.prod(shape):,} cells have no arm{_such_as(factors, cells)}")
    values = {arm.name: arm.values(metric) for arm in arms}
    every = sorted({seed for arm in arms for seed in arm.runs})
    lacks = {seed: tuple(name for name in values if not _finite(values[name], seed)) for seed in every}
    seeds = tuple(seed for seed in every if not lacks[seed])
    found = replace(found, seeds=seeds, lacking=tuple((seed, names) for seed, names in lacks.items() if names))
    if not seeds:
        return replace(found, reason="no seed has a result in every cell")
    y = np.empty((*shape, len(seeds)))
    for cell, arm in cells.items():
        y[cell] = [values[arm.name][seed] for seed in seeds]
    with np.errstate(over="ignore"):
        if not np.isfinite(4 * abs(y).sum()):  # more than any contrast, and any step on the way to it
            return replace(found, reason="there are values too large for their differences to be worked out")
    effects = list(_effects(y, factors, level))
    corrected = holm({number: effect.p for number, effect in enumerate(effects)})
    return replace(found, effects=tuple(replace(effect, p_holm=corrected[n]) for n, effect in enumerate(effects)))


def _design(sweep: Sweep) -> tuple[tuple[Factor, ...], dict[str, tuple[int, ...]]]:
    """The factors, and where each arm stands in them: the number of its level of each."""
    arms = list(sweep.arms.values())
    first = sweep.arms.get(sweep.baseline, arms[0])
    ordered = [first, *(arm for arm in arms if arm is not first)]
    columns = {axis: tuple(_text(arm.axes.get(axis)) for arm in ordered) for axis in sweep.axes}
    steps: list[list[str]] = []  # axes of which each tells the other's level
    for axis, column in columns.items():
        if len(set(column)) < 2:
            continue
        same = next((group for group in steps if _in_step(columns[group[0]], column)), None)
        if same is None:
            steps.append([axis])
        else:
            same.append(axis)
    factors, numbers = [], []
    for group in steps:
        of_arms = [", ".join(texts) for texts in zip(*(columns[axis] for axis in group), strict=True)]
        number = {text: i for i, text in enumerate(dict.fromkeys(of_arms))}
        factors.append(Factor(" & ".join(group), tuple(number)))
        numbers.append([number[text] for text in of_arms])
    cells = zip(*numbers, strict=True) if numbers else [()] * len(ordered)
    return tuple(factors), {arm.name: tuple(cell) for arm, cell in zip(ordered, cells, strict=True)}


def _finite(values: dict[int, float], seed: int) -> bool:
    return finite(values.get(seed, math.nan))


def _in_step(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    return len(set(a)) == len(set(b)) == len(set(zip(a, b, strict=True)))


def _effects(y: Any, factors: tuple[Factor, ...], level: float) -> Iterator[Effect]:
    """Main effects and interactions of y [levels of each factor…, seeds]."""
    every = range(len(factors))
    sizes = abs(y).max(axis=tuple(every)).tolist()  # of each seed
    for f in every:
        means = y.mean(axis=tuple(other for other in every if other != f))  # [levels, seeds]
        for i in range(1, len(factors[f].levels)):
            yield _effect((factors[f],), (i,), means[i] - means[0], sizes, level)
    for f, g in itertools.combinations(every, 2):
        means = y.mean(axis=tuple(other for other in every if other not in (f, g)))  # [levels, levels, seeds]
        for i, j in itertools.product(range(1, means.shape[0]), range(1, means.shape[1])):
            contrast = means[i, j] - means[0, j] - means[i, 0] + means[0, 0]
            yield _effect((factors[f], factors[g]), (i, j), contrast, sizes, level)


def _effect(
    factors: tuple[Factor, ...], levels: tuple[int, ...], contrast: Any, sizes: Sequence[float], level: float
) -> Effect:
    values = steadied(contrast.tolist(), sizes)
    found = sample(dict(enumerate(values)))
    assert found.mean is not None
    return Effect(
        factors=tuple(factor.name for factor in factors),
        levels=tuple(factor.levels[number] for factor, number in zip(factors, levels, strict=True)),
        references=tuple(factor.reference for factor in factors),
        values=values,
        mean=found.mean,
        sd=found.sd,
        interval=t_interval(found.mean, found.sd, found.n, level) if found.sd is not None else None,
        p=t_test_p(found.mean, found.sd, found.n) if found.sd is not None else None,
    )


def _such_as(factors: tuple[Factor, ...], cells: dict[tuple[int, ...], Arm]) -> str:
    """The first cell without an arm, where few enough are to look through."""
    for cell in itertools.islice(itertools.product(*(range(len(factor.levels)) for factor in factors)), 10_000):
        if cell not in cells:
            named = (f"{factor.name}={factor.levels[i]}" for factor, i in zip(factors, cell, strict=True))
            return f", such as {', '.join(named)}"
    return ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

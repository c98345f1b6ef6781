"""What a budget buys: which seeds and training tokens fit into it, and what each choice costs in detectable effect."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from components.registry import OptionError
from lab.planning.forecast.detectable import Detectable
from lab.planning.forecast.estimate import Speeds, at_tokens, passes
from lab.planning.forecast.power import smallest_effect
from lab.planning.plan.model import Plan, PlannedRun
from lab.refusals import RequestError

UNITS = {"gpuh": 3600.0, "cpuh": 3600.0, "h": 3600.0, "m": 60.0, "flops": 1.0}
SEEDS = (2, 3, 5, 8, 13, 21, 34, 55, 89)
MOST_SEEDS = 1000
_MANY = 500
"""Runs a worker from which on it doesn't matter which of them is the last."""
_TEXT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:e\+?[0-9]+)?)\s*([a-z]+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """An amount of compute.

    Attributes:
        text: as it was written.
        unit: gpuh (hours of GPUs in all), cpuh (hours of processor cores in all), h or m (time on this machine), flops.
        amount: in seconds, or in FLOPs.
    """

    text: str
    unit: str
    amount: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """A budget such as 200gpuh, 16cpuh, 2h, 90m or 1e18flops.

        Raises:
            RequestError: it is none, with examples.
        """
        match = _TEXT.fullmatch(text)
        unit = match[2].lower() if match else ""
        part = f"--budget '{text}'"
        if match is None or unit not in UNITS:
            problem = "expected such as 200gpuh, 16cpuh, 2h, 90m or 1e18flops"
            raise RequestError(problem, kind="usage", part=part, given=text)
        amount = float(match[1]) * UNITS[unit]
        if not 0 < amount < math.inf:
            problem = "must be more than nothing and finite, such as 2h or 1e18flops"
            raise RequestError(problem, kind="usage", part=part, given=text)
        return cls(text.strip(), unit, amount)


@dataclass(frozen=True)
class Choice:
    """Seeds and tokens that fit.

    Attributes:
        tokens: training tokens of a baseline's run; arms whose tokens differ keep their proportion.
        used: of the budget, as a fraction.
        effect: the smallest detectable, None where the noise is unknown.
    """

    seeds: int
    tokens: int
    used: float
    effect: float | None


@dataclass(frozen=True)
class Fit:
    """What a budget allows.

    Attributes:
        basis: what the speeds rest on, in words; empty for FLOPs.
        own: the sweep's own tokens with the most seeds that fit; None where not even two do.
        choices: for growing numbers of seeds the most tokens that fit.
        needed: what the sweep costs as it is, as a fraction of the budget.
    """

    budget: Budget
    basis: str
    own: Choice | None
    choices: tuple[Choice, ...]
    needed: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class _Arm:
    """An arm: one run that represents all of its runs, what a run costs by its tokens, and how many help to tune."""

    run: PlannedRun
    cost: Callable[[int], float]
    tuning: int


def fit(
    plan: Plan, budget: Budget, speeds: Speeds | None, power: Detectable, *, parallel: int, threads: int, gpu: bool
) -> Fit:
    """Which seeds and tokens fit into a budget.

    Every run counts, those that are finished too. The noise is taken to stay as it was seen, whatever the tokens.

    Args:
        speeds: on the hardware that the budget is about; not needed for FLOPs.
        parallel: runs at once on this machine, for a budget in hours or minutes.
        threads: cores that each run holds.
        gpu: whether those speeds are a GPU's.
    Raises:
        RequestError: nothing measured says how fast the runs are.
    """
    if budget.unit == "gpuh" and not gpu:
        raise _unmeasured(plan, budget, needs_gpu=True)
    if budget.unit == "cpuh" and gpu:
        fix = "give gpuh, or train.accelerator=cpu"
        raise RequestError("these runs take a GPU", kind="conflict", part=f"--budget {budget.text}", fix=fix)
    arms, basis = [], set()
    for runs in plan.arms.values():
        first = next(run for run in runs if run.role == "report")
        speed = None if speeds is None else speeds.of(first.workload)
        if budget.unit != "flops" and (speed is None or not speed.tokens_per_second):
            raise _unmeasured(plan, budget, needs_gpu=False)
        if budget.unit != "flops" and speed is not None:
            basis.add(speed.describe())
        per_second = None if budget.unit == "flops" or speed is None else speed.tokens_per_second
        arms.append(_Arm(first, _cost(first, per_second), sum(run.role == "tune" for run in runs)))
    cost = _Cost(arms, plan.baseline, budget, parallel, threads)
    own_tokens = cost.base.experiment.train.tokens

    def choice(seeds: int, tokens: int) -> Choice:
        return Choice(seeds, cost.whole(tokens), cost.of(seeds, tokens) / budget.amount, _effect(power, seeds))

    most = _largest(lambda seeds: cost.of(seeds, own_tokens) <= budget.amount, 2, MOST_SEEDS)
    choices = []
    for seeds in SEEDS:
        tokens = cost.most_tokens(seeds, budget.amount)
        if tokens is None:
            break
        choices.append(choice(seeds, tokens))
    return Fit(
        budget,
        "; ".join(sorted(basis)),
        None if most is None else choice(most, own_tokens),
        tuple(choices),
        cost.of(power.seeds, own_tokens) / budget.amount,
    )


class _Cost:
    """What seeds and tokens cost, in seconds or FLOPs."""

    def __init__(self, arms: Sequence[_Arm], baseline: str, budget: Budget, parallel: int, threads: int) -> None:
        self.arms, self.budget, self.parallel, self.threads = arms, budget, parallel, threads
        self.base = next(arm.run for arm in arms if arm.run.arm == baseline)

    def of(self, seeds: int, tokens: int) -> float:
        """The cost with this many reporting seeds and the baseline trained on this many tokens."""
        scale = tokens / self.base.experiment.train.tokens
        costs = [
            (arm.cost(max(1, round(arm.run.experiment.train.tokens * scale))), arm.tuning + seeds) for arm in self.arms
        ]
        if self.budget.unit in ("h", "m"):
            return _makespan(costs, self.parallel)
        cores = self.threads if self.budget.unit == "cpuh" else 1
        return cores * math.fsum(cost * runs for cost, runs in costs)

    def whole(self, tokens: int) -> int:
        """Tokens as they are trained on: whole steps."""
        train = at_tokens(self.base.experiment, tokens).train
        return train.steps * train.tokens_per_step

    def most_tokens(self, seeds: int, amount: float) -> int | None:
        """The most tokens, in whole steps, that fit; None where not even the shortest training does."""
        step = self.base.experiment.train.tokens_per_step
        steps = _largest(lambda n: self.of(seeds, n * step) <= amount, 1, 2**50 // step)
        if steps is None or not all(self._trains(arm.run, steps * step) for arm in self.arms):
            return None
        return steps * step

    def _trains(self, run: PlannedRun, tokens: int) -> bool:
        """Whether a run's schedule fits into the baseline's number of tokens."""
        scaled = max(1, round(run.experiment.train.tokens * tokens / self.base.experiment.train.tokens))
        try:
            at_tokens(run.experiment, scaled)
        except OptionError:
            return False
        return True


def _cost(run: PlannedRun, tokens_per_second: float | None) -> Callable[[int], float]:
    train, validation = run.experiment.train, run.experiment.validation
    whole = train.steps * train.tokens_per_step
    extra = passes(run.experiment) - whole
    per_token = run.total_flops / whole
    interval = validation.interval(train.tokens_per_step)

    def cost(tokens: int) -> float:
        trained = math.ceil(tokens / train.tokens_per_step) * train.tokens_per_step
        if tokens_per_second is None:
            return per_token * trained
        validated = extra if interval is None else extra * trained / whole
        return (trained + validated) / tokens_per_second

    return cost


def _makespan(costs: Sequence[tuple[float, int]], parallel: int) -> float:
    """When the last of all runs ends if each begins as soon as a worker is free, in the plan's order.

    Args:
        costs: of each arm, what one of its runs takes, and how many there are.
    """
    if parallel == 1 or sum(runs for _, runs in costs) > _MANY * parallel:
        return math.fsum(cost * runs for cost, runs in costs) / parallel
    free = [0.0] * parallel
    for cost, runs in costs:
        for _ in range(runs):
            heapq.heapreplace(free, free[0] + cost)
    return max(free)


def _largest(holds: Callable[[int], bool], least: int, most: int) -> int | None:
    """The largest number, from least to most, up to which a condition holds; None where it doesn't hold at all."""
    if not holds(least):
        return None
    low, high = least, 2 * least
    while high <= most and holds(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _effect(power: Detectable, seeds: int) -> float | None:
    if power.noise.sd is None or not power.comparisons:
        return None
    return smallest_effect(power.noise.sd, seeds, power.comparisons)


def _unmeasured(plan: Plan, budget: Budget, *, needs_gpu: bool) -> RequestError:
    experiment = plan.runs[0].experiment.name
    problem = f"no run of this kind has been measured {'on a GPU' if needs_gpu else 'on this hardware'}"
    fix = (
        f"run `lab train {experiment}` once {'there' if needs_gpu else 'here'}, or give the budget in FLOPs, such as "
        "1e15flops"
    )
    return RequestError(problem, kind="unavailable", part=f"--budget {budget.text}", fix=fix)

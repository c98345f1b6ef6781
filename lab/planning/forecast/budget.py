"""What a budget buys: the seeds and training tokens that fit into it, and the effect that each choice can detect."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from components.registry import OptionError
from lab.planning.forecast.detectable import Detectable
from lab.planning.forecast.estimate import Speeds, at_tokens, estimate
from lab.planning.forecast.makespan import makespan
from lab.planning.forecast.power import smallest_effect
from lab.planning.plan.model import Plan, PlannedRun
from lab.refusals import RequestError

UNITS = {"gpuh": 3600.0, "cpuh": 3600.0, "h": 3600.0, "m": 60.0, "flops": 1.0}
SEEDS = (2, 3, 5, 8, 13, 21, 34, 55, 89)
"""Numbers of seeds that are offered."""
MOST_SEEDS = 1000
_TEXT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:e\+?[0-9]+)?)\s*([a-z]+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """An amount of compute.

    Attributes:
        text: the budget as written.
        unit: gpuh (total GPU hours), cpuh (total hours of processor cores), h or m (time on this machine), or flops.
        amount: the amount in seconds, or in FLOPs.
    """

    text: str
    unit: str
    amount: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse a budget such as 200gpuh, 16cpuh, 2h, 90m or 1e18flops.

        Raises:
            RequestError: the text isn't a budget, or the amount isn't positive and finite.
        """
        match = _TEXT.fullmatch(text)
        unit = match[2].lower() if match else ""
        part = f"--budget '{text}'"
        if match is None or unit not in UNITS:
            problem = "expected an amount such as 200gpuh, 16cpuh, 2h, 90m or 1e18flops"
            raise RequestError(problem, kind="usage", part=part, given=text)
        amount = float(match[1]) * UNITS[unit]
        if not 0 < amount < math.inf:
            problem = "must be finite and more than 0, such as 2h or 1e18flops"
            raise RequestError(problem, kind="usage", part=part, given=text)
        return cls(text.strip(), unit, amount)


@dataclass(frozen=True)
class Choice:
    """A number of seeds and tokens that fits into the budget.

    Attributes:
        seeds: reporting seeds of each arm.
        tokens: training tokens of a run of the baseline. Arms with other numbers of tokens keep their ratio to it.
        used: the used fraction of the budget.
        effect: the smallest detectable effect; None if the noise is unknown.
    """

    seeds: int
    tokens: int
    used: float
    effect: float | None


@dataclass(frozen=True)
class BudgetFit:
    """What fits into a budget.

    Attributes:
        budget: the budget.
        basis: the measurements behind the speeds, in words; empty for a budget in FLOPs.
        own: the sweep's own tokens with the most seeds that fit; None if fewer than two seeds fit.
        choices: the most tokens that fit, for increasing numbers of seeds.
        needed: the cost of the sweep as written, as a fraction of the budget.
    """

    budget: Budget
    basis: str
    own: Choice | None
    choices: tuple[Choice, ...]
    needed: float

    def as_dict(self) -> dict[str, object]:
        """The content of `budget` in `lab plan --json`."""
        return asdict(self)


@dataclass(frozen=True)
class _Arm:
    """The costs of an arm.

    Attributes:
        run: a run that represents all runs of the arm.
        cost: training tokens → cost of one run, in seconds or FLOPs.
        tuning: the number of its tuning runs.
    """

    run: PlannedRun
    cost: Callable[[int], float]
    tuning: int


def fit_budget(
    plan: Plan, budget: Budget, speeds: Speeds | None, power: Detectable, *, parallel: int, threads: int, gpu: bool
) -> BudgetFit:
    """Which seeds and tokens fit into a budget.

    All runs are counted, including finished ones. The noise is assumed not to depend on the number of tokens.

    Args:
        speeds: the speeds on the hardware of the budget; not needed for a budget in FLOPs.
        power: what the sweep as written can detect.
        parallel: the number of runs at once on this machine, for a budget in hours or minutes.
        threads: the cores that each run occupies.
        gpu: whether the speeds are those of a GPU.
    Raises:
        RequestError: the speed of a run is unknown, or the unit doesn't fit the hardware.
    """
    if budget.unit == "gpuh" and not gpu:
        raise _unmeasured(plan, budget, needs_gpu=True)
    if budget.unit == "cpuh" and gpu:
        fix = "give gpuh, or train.accelerator=cpu"
        raise RequestError("these runs use a GPU", kind="conflict", part=f"--budget {budget.text}", fix=fix)
    arms, basis = [], set()
    for runs in plan.arms.values():
        first = next(run for run in runs if run.role == "report")
        speed = None if speeds is None else speeds.of(first.workload)
        if budget.unit != "flops" and (speed is None or not speed.tokens_per_second):
            raise _unmeasured(plan, budget, needs_gpu=False)
        if budget.unit != "flops" and speed is not None:
            basis.add(speed.describe())
        per_second = None if budget.unit == "flops" or speed is None else speed.tokens_per_second
        by_tokens = _flops(first) if speeds is None or per_second is None else _seconds(first, speeds)
        arms.append(_Arm(first, by_tokens, sum(run.role == "tune" for run in runs)))
    cost = _Cost(arms, plan.baseline, budget, parallel, threads)
    own_tokens = cost.base.experiment.train.tokens

    def choice(seeds: int, tokens: int) -> Choice:
        return Choice(seeds, cost.whole_steps(tokens), cost.of(seeds, tokens) / budget.amount, _effect(power, seeds))

    most = _largest(lambda seeds: cost.of(seeds, own_tokens) <= budget.amount, 2, MOST_SEEDS)
    choices = []
    for seeds in SEEDS:
        tokens = cost.most_tokens(seeds, budget.amount)
        if tokens is None:
            break
        choices.append(choice(seeds, tokens))
    return BudgetFit(
        budget,
        "; ".join(sorted(basis)),
        None if most is None else choice(most, own_tokens),
        tuple(choices),
        cost.of(power.seeds, own_tokens) / budget.amount,
    )


class _Cost:
    """The cost of the sweep by seeds and tokens, in seconds or FLOPs."""

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
            return makespan(costs, self.parallel)
        cores = self.threads if self.budget.unit == "cpuh" else 1
        return cores * math.fsum(cost * runs for cost, runs in costs)

    def whole_steps(self, tokens: int) -> int:
        """A number of tokens rounded up to whole steps."""
        train = at_tokens(self.base.experiment, tokens).train
        return train.steps * train.tokens_per_step

    def most_tokens(self, seeds: int, amount: float) -> int | None:
        """The most tokens, in whole steps, that fit; None if not even one step fits or a schedule doesn't."""
        step = self.base.experiment.train.tokens_per_step
        steps = _largest(lambda n: self.of(seeds, n * step) <= amount, 1, 2**50 // step)
        if steps is None or not all(self._trains(arm.run, steps * step) for arm in self.arms):
            return None
        return steps * step

    def _trains(self, run: PlannedRun, tokens: int) -> bool:
        """Whether a run's schedule fits if the baseline trains on this many tokens."""
        scaled = max(1, round(run.experiment.train.tokens * tokens / self.base.experiment.train.tokens))
        try:
            at_tokens(run.experiment, scaled)
        except OptionError:
            return False
        return True


def _flops(run: PlannedRun) -> Callable[[int], float]:
    """Training tokens → FLOPs of a run."""
    train = run.experiment.train
    per_step = run.total_flops / train.steps

    def cost(tokens: int) -> float:
        return per_step * math.ceil(tokens / train.tokens_per_step)

    return cost


def _seconds(run: PlannedRun, speeds: Speeds) -> Callable[[int], float]:
    """Training tokens → seconds of a run. Start-up, checkpoints and evaluations don't depend on the tokens."""
    train, parts = run.experiment.train, estimate(run, speeds).parts
    if run.experiment.validation.tokens is None:
        problem = (
            "the time that validation takes isn't known while validation.tokens is null, which scores all of the text"
        )
        fix = "give the budget in FLOPs, or validation.tokens as a number"
        raise RequestError(problem, kind="unsupported", part=f"arm '{run.arm}'", key="--budget", fix=fix)
    training, validation = parts.get("training", 0.0), parts.get("validation", 0.0)
    fixed = sum(parts.values()) - training - validation
    validates_at_end = run.experiment.validation.interval(train.tokens_per_step) is None

    def cost(tokens: int) -> float:
        share = math.ceil(tokens / train.tokens_per_step) / train.steps
        return fixed + training * share + validation * (1 if validates_at_end else share)

    return cost


def _largest(holds: Callable[[int], bool], least: int, most: int) -> int | None:
    """The largest number between least and most up to which a condition holds; None if it doesn't hold at `least`."""
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
        f"run `lab train {experiment}` once {'on a GPU' if needs_gpu else 'here'}, or give the budget in FLOPs, such "
        "as 1e15flops"
    )
    return RequestError(problem, kind="unavailable", part=f"--budget {budget.text}", fix=fix)

"""The third stage of a plan: match the arms. A knob of each arm is adjusted until it costs what the baseline costs.

Costs come from the exact accounting of composed configurations, not from a formula for one architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

from components.registry import nearest
from lab.accounting.costs import costs
from lab.composition.compose import Composition
from lab.composition.frozen.freeze import to_plain
from lab.composition.hydra.overrides import parse
from lab.planning.arms.arm import Arm
from lab.planning.arms.sweep_arms import SweepArms
from lab.planning.config_paths import flatten, value_at
from lab.planning.language.read import SweepFile
from lab.planning.language.sweep import Match, Quantity
from lab.planning.solve.integer_search import IntegerSearch
from lab.refusals import RequestError
from lab.training.experiment import Experiment

KNOBS: dict[Quantity, str] = {
    "params": "model.mlp.d_ff",
    "flops": "model.mlp.d_ff",
    # The window changes the cache in small steps and no weights. One more head or a larger head size changes the cache
    # by far more than the tolerance, and changes the parameters too.
    "kv": "model.span.window",
    "tokens": "train.tokens",
}
NAMES: dict[Quantity, str] = {
    "params": "parameters",
    "flops": "training FLOPs",
    "kv": "key-value bytes per token",
    "tokens": "training tokens",
}

Recompose = Callable[[str, str], Composition]
"""(arm, override) → the arm composed with the override on top of all others."""


@dataclass(frozen=True)
class Matching:
    """How the arms of a plan were matched.

    Attributes:
        by: the quantity; `none` if the sweep matches nothing.
        knob: the configuration path that was adjusted.
        multiple_of: the number of which the knob's values are multiples; None if no arm was adjusted.
        tolerance: the largest difference allowed, as a fraction of the baseline.
        values: arm → the knob's value, for every arm that was adjusted.
        deviations: arm → (its quantity / the baseline's) - 1. With `none`, the quantity is the parameters.
        parameter_deviations: the deviations of the parameters, whatever was matched.
        flops_deviations: the deviations of the training FLOPs, whatever was matched.
    """

    by: Quantity = "none"
    knob: str | None = None
    multiple_of: int | None = None
    tolerance: float = 0.005
    values: Mapping[str, int] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)
    parameter_deviations: Mapping[str, float] = field(default_factory=dict)
    flops_deviations: Mapping[str, float] = field(default_factory=dict)

    def overrides(self, arm: str) -> tuple[str, ...]:
        """The overrides that matching adds to an arm."""
        return (f"{self.knob}={self.values[arm]}",) if arm in self.values else ()

    def with_total_flops(self, total_flops: Mapping[str, float], baseline: str) -> Matching:
        """The matching with `flops_deviations` from the total FLOPs of each arm's runs, including their teachers'."""
        deviations = {arm: flops / total_flops[baseline] - 1 for arm, flops in total_flops.items()}
        return replace(self, flops_deviations=deviations)


@dataclass(frozen=True)
class MatchedArms:
    """The arms of a sweep, composed and matched.

    Attributes:
        compositions: arm → its composition, with the adjusted knob.
    """

    sweep: SweepArms
    compositions: Mapping[str, Composition]
    matching: Matching

    def compose(self, arm: Arm, *more: str) -> Composition:
        """Compose an arm with its adjusted knob and more overrides on top of all others."""
        return self.sweep.compose(arm, *self.matching.overrides(arm.name), *more)


def match_arms(sweep: SweepArms) -> MatchedArms:
    """Compose every arm, and adjust the knob of each until it is within the tolerance of the baseline.

    Raises:
        RequestError: an arm can't be composed or matched.
    """
    by_name = {arm.name: arm for arm in sweep.arms}

    def recompose(arm: str, override: str) -> Composition:
        return sweep.compose(by_name[arm], override)

    composed = {arm.name: sweep.compose(arm) for arm in sweep.arms}
    return MatchedArms(sweep, *match(sweep.file, sweep.baseline, composed, recompose))


def match(
    file: SweepFile, baseline: str, composed: Mapping[str, Composition], recompose: Recompose
) -> tuple[dict[str, Composition], Matching]:
    """Adjust the knob of each arm as the sweep's `match` asks. An arm that is already within the tolerance is kept.

    Args:
        composed: arm → its composition as written in the file, including the baseline.
        recompose: composes an arm with one more override.
    Returns:
        The compositions by arm, and how they were matched.
    Raises:
        RequestError: with the arm that can't be matched, the nearest values, and what would help.
    """
    rule = file.sweep.match
    _check_rule(rule, file)
    compositions = dict(composed)
    matching = Matching(rule.by, tolerance=rule.tolerance)
    if rule.by != "none":
        matcher = _Matcher(file, baseline, composed, recompose)
        multiple_of, adjusted = matcher.solve()
        compositions |= {arm: composition for arm, (_, composition) in adjusted.items()}
        values = {arm: value for arm, (value, _) in adjusted.items()}
        matching = replace(matching, knob=matcher.knob, multiple_of=multiple_of, values=values)
    return compositions, replace(
        matching,
        deviations=_deviations("params" if rule.by == "none" else rule.by, baseline, compositions),
        parameter_deviations=_deviations("params", baseline, compositions),
        flops_deviations=_deviations("flops", baseline, compositions),
    )


def quantity(by: Quantity, experiment: Experiment) -> float:
    """The matched quantity of an experiment: parameters, FLOPs of the whole training, KV bytes per token, or tokens."""
    train = experiment.train
    tokens = train.steps * train.tokens_per_step
    if by == "tokens":
        return tokens
    cost = costs(experiment.model, train.context)
    match by:
        case "flops":
            return cost.flops_per_token * tokens
        case "kv":
            return cost.kv_bytes_per_token or 0.0  # none is nothing to match
    return cost.parameters


class _Matcher:
    """Searches the knob's value for every arm of a sweep."""

    def __init__(
        self, file: SweepFile, baseline: str, composed: Mapping[str, Composition], recompose: Recompose
    ) -> None:
        self.file, self.baseline, self.composed, self.recompose = file, baseline, composed, recompose
        self.rule = file.sweep.match
        self.knob = self.rule.knob or KNOBS[self.rule.by]
        self.name = NAMES[self.rule.by]
        self.target = quantity(self.rule.by, composed[baseline].experiment)
        if not self.target > 0:
            problem = f"the baseline '{baseline}' has no {self.name} to match"
            raise RequestError(problem, kind="conflict", where=file.at("match"))
        self.refusals: dict[str, RequestError] = {}

    def solve(self) -> tuple[int | None, dict[str, tuple[int, Composition]]]:
        """The number of which the values are multiples, and arm → (value, composition) for every adjusted arm."""
        shared = set.intersection(*(set(composition.overrides) for composition in self.composed.values()))
        # Arms that differ only in options without a cost, such as a learning rate, share one search.
        alike: dict[tuple[str, str], list[str]] = {}
        for arm, composition in self.composed.items():
            if arm != self.baseline and not self._is_within(self._deviation(composition)):
                self._refuse_own(arm, shared)
                experiment = composition.experiment
                alike.setdefault((repr(experiment.model), repr(experiment.train)), []).append(arm)
        searches = {arms[0]: self._search(arms[0]) for arms in alike.values()}
        if not searches:
            self._check_unneeded()
            return None, {}
        multiple_of = self.rule.multiple_of or min(self._coarsest(arm, search) for arm, search in searches.items())
        adjusted: dict[str, tuple[int, Composition]] = {}
        for arms in alike.values():
            value = self._value(arms[0], searches[arms[0]], multiple_of)
            adjusted |= {arm: self._adjusted(arm, value, multiple_of) for arm in arms}
        return multiple_of, adjusted

    def _deviation(self, composition: Composition) -> float:
        return quantity(self.rule.by, composition.experiment) / self.target - 1

    def _is_within(self, deviation: float) -> bool:
        return abs(deviation) <= self.rule.tolerance

    def _search(self, arm: str) -> IntegerSearch:
        composition = self.composed[arm]
        start = self._start(arm, composition.experiment)

        def deviation(value: int) -> float | None:
            try:
                return self._deviation(self.recompose(arm, f"{self.knob}={value}"))
            except RequestError as error:
                self.refusals[arm] = error
                return None

        return IntegerSearch(deviation, start, {start: self._deviation(composition)})

    def _start(self, arm: str, experiment: Experiment) -> int:
        """The knob's value before it is adjusted."""
        value = value_at(experiment, self.knob)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        whole_numbers = [path for path, leaf in flatten(to_plain(experiment)) if type(leaf) is int]
        if self.rule.knob is None:
            of_model = ", ".join(path for path in whole_numbers if path.startswith("model."))
            problem = f"arm '{arm}' has no {self.knob} to adjust"
            fix = f"name another knob, a whole number of that arm: {of_model}"
            raise RequestError(problem, kind="conflict", where=self.file.at("match"), fix=fix)
        last = self.knob.rpartition(".")[2]
        same_option = [path for path in whole_numbers if path.rpartition(".")[2] == last]
        near = same_option[0] if same_option else nearest(self.knob, whole_numbers)
        raise RequestError(
            f"arm '{arm}' has no whole number '{self.knob}'",
            kind="unknown_key",
            where=self.file.at("match", "knob"),
            given=self.knob,
            expected=None if near else tuple(whole_numbers),
            nearest=near,
        )

    def _refuse_own(self, arm: str, shared: set[str]) -> None:
        """Refuse to adjust a knob that the arm sets itself."""
        for text in self.composed[arm].overrides:
            path = text.partition("=")[0].lstrip("+~")
            is_above = self.knob == path or self.knob.startswith(f"{path}.")
            if text not in shared and is_above and parse([text]).sets(self.knob):
                problem = (
                    f"arm '{arm}' sets {self.knob} itself ({text}), so it can't be adjusted to match the {self.name}"
                )
                fix = "choose another knob, or match: none"
                raise RequestError(problem, kind="conflict", where=self.file.at("match"), fix=fix)

    def _coarsest(self, arm: str, search: IntegerSearch) -> int:
        coarsest = search.coarsest(self.rule.tolerance)
        if coarsest is None:
            raise self._unmatched(arm, search, 1)
        return coarsest

    def _value(self, arm: str, search: IntegerSearch, multiple_of: int) -> int:
        value = search.best(multiple_of)
        if value is None or not self._is_within(search.at(value) or 0.0):
            raise self._unmatched(arm, search, multiple_of)
        return value

    def _adjusted(self, arm: str, value: int, multiple_of: int) -> tuple[int, Composition]:
        composition = self.recompose(arm, f"{self.knob}={value}")
        if not self._is_within(self._deviation(composition)):
            # The arm has the costs of another arm but uses the knob differently: a layer kind may set its own width.
            value = self._value(arm, self._search(arm), multiple_of)
            composition = self.recompose(arm, f"{self.knob}={value}")
        return value, composition

    def _check_unneeded(self) -> None:
        """Refuse a knob without effect even if no arm needs to be adjusted."""
        if self.rule.knob is not None and self._search(self.baseline).is_rising is None:
            raise self._without_effect(self.baseline)

    def _without_effect(self, arm: str) -> RequestError:
        keys = ("match", "knob") if self.rule.knob else ("match",)
        refusal = f": {self.refusals[arm]}" if arm in self.refusals else ""
        problem = f"adjusting {self.knob} of arm '{arm}' doesn't change its {self.name}{refusal}"
        return RequestError(problem, kind="conflict", where=self.file.at(*keys), fix="choose another knob")

    def _unmatched(self, arm: str, search: IntegerSearch, multiple_of: int) -> RequestError:
        """The refusal of an arm that can't be matched: the values next to the target, and what would help."""
        if search.is_rising is None:
            return self._without_effect(arm)
        values = dict.fromkeys(value for value in search.multiples(multiple_of) if value is not None)
        deviations = {value: search.at(value) or 0.0 for value in values}
        nearby = ", ".join(f"{value} gives {deviation:+.2%}" for value, deviation in deviations.items())
        if None in search.crossing:
            nearby += ", and no other value is closer"
        step = f" in multiples of {multiple_of}" if multiple_of > 1 else ""
        coarsest = search.coarsest(self.rule.tolerance)
        fixes = [f"multiple_of: {coarsest}"] if coarsest is not None and coarsest < multiple_of else []
        fixes.append("another knob")
        least = min(map(abs, deviations.values()), default=1.0)
        if least < 1:
            fixes.append(f"a tolerance of {_rounded_up(least)}")
        return RequestError(
            f"arm '{arm}' can't be brought within {100 * self.rule.tolerance:.3g}% of the {self.name} of "
            f"'{self.baseline}' by {self.knob}{step}: {nearby}",
            kind="conflict",
            where=self.file.at("match"),
            fix=f"what would help: {' or '.join(fixes)}",
        )


def _check_rule(rule: Match, file: SweepFile) -> None:
    if not 0 < rule.tolerance < 1:
        problem = f"expected a fraction between 0 and 1, such as 0.005, got {rule.tolerance}"
        raise RequestError(problem, where=file.at("match", "tolerance"), given=rule.tolerance)
    if rule.multiple_of is not None and rule.multiple_of < 1:
        problem = f"must be at least 1, got {rule.multiple_of}"
        raise RequestError(problem, where=file.at("match", "multiple_of"), given=rule.multiple_of)
    for option in fields(rule) if rule.by == "none" else ():
        if getattr(rule, option.name) != option.default:
            problem = "has no effect, as nothing is matched"
            fix = "write what to match, such as by: params, or leave it out"
            raise RequestError(problem, kind="conflict", where=file.at("match", option.name), fix=fix)


def _deviations(by: Quantity, baseline: str, compositions: Mapping[str, Composition]) -> dict[str, float]:
    target = quantity(by, compositions[baseline].experiment)
    return {arm: quantity(by, composition.experiment) / target - 1 for arm, composition in compositions.items()}


def _rounded_up(fraction: float) -> str:
    """A fraction with two significant digits, rounded up."""
    unit = 10.0 ** (math.floor(math.log10(fraction)) - 1)
    return f"{math.ceil(fraction / unit) * unit:.2g}"

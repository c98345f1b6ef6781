"""What is held equal between arms: a knob of each is turned until it costs what the baseline costs.

Solved on the exact accounting of composed configurations, never on a formula for one architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from components.registry import nearest
from lab.accounting.costs import costs
from lab.composition.compose import Composition
from lab.composition.frozen.freeze import to_plain
from lab.composition.hydra.overrides import parse
from lab.planning.language.sweep import Match, Quantity, SweepFile
from lab.planning.plan.config_diff import flat
from lab.planning.solve.integer_search import Dial
from lab.refusals import RequestError
from lab.training.experiment import Experiment

KNOBS: dict[Quantity, str] = {
    "params": "model.mlp.d_ff",
    "flops": "model.mlp.d_ff",
    # The one whole number that shrinks a cache finely and leaves every weight as it is: a step of heads or of their
    # size moves it by far more than the tolerance, and moves the parameters too.
    "kv": "model.span.window",
    "tokens": "train.tokens",
}
NAMES: dict[Quantity, str] = {
    "params": "parameters",
    "flops": "training FLOPs",
    "kv": "key-value bytes a token",
    "tokens": "training tokens",
}

Recompose = Callable[[str, tuple[str, ...]], Composition]


@dataclass(frozen=True)
class Matching:
    """How the arms of a plan were matched.

    Attributes:
        by: the quantity; `none` where nothing was asked for.
        knob: the configuration path that was turned.
        multiple_of: what the knob's values are multiples of; None where no arm needed turning.
        tolerance: largest difference allowed, as a fraction of the baseline.
        values: arm → the knob's value, for every arm where it was turned.
        deviations: arm → (its quantity / the baseline's) - 1. For `none`, of its parameters.
        parameter_deviations: the same of every arm's parameters, whatever was matched.
        flops_deviations: the same of every arm's training FLOPs.
    """

    by: Quantity = "none"
    knob: str | None = None
    multiple_of: int | None = None
    tolerance: float = 0.005
    values: Mapping[str, int] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)
    parameter_deviations: Mapping[str, float] = field(default_factory=dict)
    flops_deviations: Mapping[str, float] = field(default_factory=dict)


def quantity(by: Quantity, experiment: Experiment) -> float:
    """What is matched, of one experiment: parameters, FLOPs of the whole training, KV bytes a token, or its tokens."""
    train = experiment.train
    tokens = train.steps * train.tokens_per_step
    if by == "tokens":
        return tokens
    cost = costs(experiment.model, train.context)
    match by:
        case "flops":
            return cost.flops_per_token * tokens
        case "kv":
            return cost.kv_bytes_per_token
    return cost.parameters


def match(
    rule: Match,
    baseline: str,
    composed: Mapping[str, Composition],
    recompose: Recompose,
    file: SweepFile,
) -> tuple[dict[str, Composition], Matching]:
    """Turn the knob of every arm until it is within the tolerance of the baseline.

    An arm that is within it as it stands is left as it is.

    Args:
        composed: arm → as it stands in the file, the baseline among them.
        recompose: (arm, overrides) → the arm with overrides on top of all others.
    Raises:
        RequestError: naming the arm that can't be matched, how near it comes, and what would help.
    """
    _check_rule(rule, file)
    compositions = dict(composed)
    values: dict[str, int] = {}
    knob = multiple_of = None
    if rule.by != "none":
        knob = rule.knob or KNOBS[rule.by]
        turner = _Turner(rule, knob, baseline, composed, recompose, file)
        multiple_of, turned = turner.solve()
        for arm, (value, composition) in turned.items():
            values[arm], compositions[arm] = value, composition
    matched = Matching(rule.by, knob, multiple_of, rule.tolerance, values)
    measured = {
        by: _deviations(by, baseline, compositions)
        for by in dict.fromkeys(("params", "flops", rule.by))
        if by != "none"
    }
    return compositions, replace(
        matched,
        deviations=measured["params" if rule.by == "none" else rule.by],
        parameter_deviations=measured["params"],
        flops_deviations=measured["flops"],
    )


def as_planned(matched: Matching, baseline: str, total_flops: Mapping[str, float]) -> Matching:
    """The matching with the FLOPs that the runs came to, those of the runs that they learn from included.

    Args:
        total_flops: arm → FLOPs of the whole training of one of its runs.
    """
    deviations = {arm: flops / total_flops[baseline] - 1 for arm, flops in total_flops.items()}
    return replace(matched, flops_deviations=deviations)


class _Turner:
    """The knob in every arm of a sweep."""

    def __init__(
        self,
        rule: Match,
        knob: str,
        baseline: str,
        composed: Mapping[str, Composition],
        recompose: Recompose,
        file: SweepFile,
    ) -> None:
        self.rule, self.knob, self.baseline, self.file = rule, knob, baseline, file
        self.composed, self.recompose = composed, recompose
        self.target = quantity(rule.by, composed[baseline].experiment)
        if not self.target > 0:
            raise RequestError(f"{file.at('match')}: the baseline '{baseline}' has no {NAMES[rule.by]} to match")
        self.refusals: dict[str, str] = {}

    def solve(self) -> tuple[int | None, dict[str, tuple[int, Composition]]]:
        """What the values are multiples of, and arm → (value, the arm with it) for every arm that was turned."""
        off = {
            arm: composition
            for arm, composition in self.composed.items()
            if arm != self.baseline and abs(self._deviation(composition)) > self.rule.tolerance
        }
        shared = set.intersection(*(set(composition.overrides) for composition in self.composed.values()))
        # Arms that differ in what costs nothing, such as a learning rate, are solved once.
        alike: dict[tuple[str, str], list[str]] = {}
        for arm, composition in off.items():
            self._refuse_own(arm, composition, shared)
            experiment = composition.experiment
            alike.setdefault((repr(experiment.model), repr(experiment.train)), []).append(arm)
        dials = {arms[0]: self._dial(arms[0], off[arms[0]]) for arms in alike.values()}
        if not dials:
            self._check_unneeded()
            return None, {}
        multiple_of = self.rule.multiple_of or min(self._coarsest(arm, dial) for arm, dial in dials.items())
        turned = {}
        for arms in alike.values():
            value = self._value(arms[0], dials[arms[0]], multiple_of)
            for arm in arms:
                turned[arm] = self._turned(arm, value, off[arm], multiple_of)
        return multiple_of, turned

    def _deviation(self, composition: Composition) -> float:
        return quantity(self.rule.by, composition.experiment) / self.target - 1

    def _dial(self, arm: str, composition: Composition) -> Dial:
        def deviation(value: int) -> float | None:
            try:
                return self._deviation(self.recompose(arm, (f"{self.knob}={value}",)))
            except RequestError as refusal:
                self.refusals[arm] = str(refusal)
                return None

        start = self._start(arm, composition.experiment)
        return Dial(deviation, start, {start: self._deviation(composition)})

    def _start(self, arm: str, experiment: Experiment) -> int:
        """The knob's value as the arm has it."""
        value: Any = experiment
        for key in self.knob.split("."):
            value = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        whole = [path for path, leaf in flat(to_plain(experiment)) if type(leaf) is int]
        if self.rule.knob is None:
            raise RequestError(
                f"{self.file.at('match')}: arm '{arm}' has no {self.knob} to turn; name another knob, a whole number "
                f"of that arm: {', '.join(path for path in whole if path.startswith('model.'))}"
            )
        last = self.knob.rpartition(".")[2]
        alike = [path for path in whole if path.rpartition(".")[2] == last]
        near = alike[0] if alike else nearest(self.knob, whole)
        hint = f"; did you mean '{near}'?" if near else f" (there are: {', '.join(whole)})"
        raise RequestError(f"{self.file.at('match', 'knob')}: '{self.knob}' is no whole number of arm '{arm}'{hint}")

    def _refuse_own(self, arm: str, composition: Composition, shared: set[str]) -> None:
        """Refuse to turn what the arm sets itself."""
        for text in composition.overrides:
            path = text.partition("=")[0].lstrip("+~")
            above = self.knob == path or self.knob.startswith(f"{path}.")
            if text not in shared and above and parse([text]).sets(self.knob):
                raise RequestError(
                    f"{self.file.at('match')}: arm '{arm}' sets {self.knob} itself ({text}), so it can't be turned to "
                    f"match the {NAMES[self.rule.by]}; choose another knob, or match: none"
                )

    def _coarsest(self, arm: str, dial: Dial) -> int:
        around = dial.around()
        coarsest = dial.coarsest(self.rule.tolerance, around)
        if coarsest is None:
            raise RequestError(self._explain(arm, dial, around, 1))
        return coarsest

    def _value(self, arm: str, dial: Dial, multiple_of: int) -> int:
        around = dial.around()
        value = dial.best(multiple_of, around)
        if value is None or abs(dial.at(value) or 0.0) > self.rule.tolerance:
            raise RequestError(self._explain(arm, dial, around, multiple_of))
        return value

    def _turned(self, arm: str, value: int, as_it_is: Composition, multiple_of: int) -> tuple[int, Composition]:
        composition = self.recompose(arm, (f"{self.knob}={value}",))
        if abs(self._deviation(composition)) > self.rule.tolerance:
            # It is configured as another arm and reads the knob otherwise: a layer kind gives its own width, say.
            value = self._value(arm, self._dial(arm, as_it_is), multiple_of)
            composition = self.recompose(arm, (f"{self.knob}={value}",))
        return value, composition

    def _check_unneeded(self) -> None:
        """No arm needs the knob: if the file names one, it must still be one that does something."""
        if self.rule.knob is None:
            return
        dial = self._dial(self.baseline, self.composed[self.baseline])
        if dial.rising() is None:
            raise RequestError(self._unmoved(self.baseline))

    def _unmoved(self, arm: str) -> str:
        where = self.file.at("match", "knob") if self.rule.knob else self.file.at("match")
        refused = f": {self.refusals[arm]}" if arm in self.refusals else ""
        return (
            f"{where}: turning {self.knob} of arm '{arm}' doesn't change its {NAMES[self.rule.by]}{refused}; "
            f"choose another knob"
        )

    def _explain(self, arm: str, dial: Dial, around: tuple[int | None, int | None], multiple_of: int) -> str:
        """Why an arm can't be matched: the values next to the target, and what would help."""
        if not dial.moves:
            return self._unmoved(arm)
        found = [value for value in dial.multiples(multiple_of, around) if value is not None]
        reached = {value: dial.at(value) or 0.0 for value in dict.fromkeys(found)}
        said = ", ".join(f"{value} gives {deviation:+.2%}" for value, deviation in reached.items())
        if None in around:
            said += ", and no other value comes nearer"
        step = f" in multiples of {multiple_of}" if multiple_of > 1 else ""
        coarsest = dial.coarsest(self.rule.tolerance, around)
        helps = [f"multiple_of: {coarsest}"] if coarsest is not None and coarsest < multiple_of else []
        helps.append("another knob")
        least = min(map(abs, reached.values()), default=1.0)
        if least < 1:
            helps.append(f"a tolerance of {_rounded_up(least)}")
        return (
            f"{self.file.at('match')}: arm '{arm}' can't be brought within {100 * self.rule.tolerance:.3g}% of the "
            f"{NAMES[self.rule.by]} of '{self.baseline}' by {self.knob}{step}: {said}; what would help: "
            f"{' or '.join(helps)}"
        )


def _check_rule(rule: Match, file: SweepFile) -> None:
    if not 0 < rule.tolerance < 1:
        raise RequestError(
            f"{file.at('match', 'tolerance')}: expected a fraction between 0 and 1, such as 0.005, got {rule.tolerance}"
        )
    if rule.multiple_of is not None and rule.multiple_of < 1:
        raise RequestError(f"{file.at('match', 'multiple_of')}: must be at least 1, got {rule.multiple_of}")
    if rule.by != "none":
        return
    for option in ("knob", "multiple_of", "tolerance"):
        if getattr(rule, option) != getattr(Match(), option):
            raise RequestError(
                f"{file.at('match', option)}: has no effect, as nothing is matched; say what is equal, such as by: "
                "params, or leave it out"
            )


def _deviations(by: Quantity, baseline: str, compositions: Mapping[str, Composition]) -> dict[str, float]:
    target = quantity(by, compositions[baseline].experiment)
    return {arm: quantity(by, each.experiment) / target - 1 for arm, each in compositions.items()}


def _rounded_up(fraction: float) -> str:
    """Two significant digits, never less than the fraction itself."""
    unit = 10.0 ** (math.floor(math.log10(fraction)) - 1)
    return f"{math.ceil(fraction / unit) * unit:.2g}"

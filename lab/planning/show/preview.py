"""A plan with its run states, its estimates, what its seeds can detect, and what a budget buys."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from lab.composition.frozen.freeze import to_plain
from lab.planning.arms.names import short_keys
from lab.planning.comparability.findings import comparability_findings, span_findings
from lab.planning.config_paths import differences
from lab.planning.forecast.budget import BudgetFit
from lab.planning.forecast.detectable import Detectable
from lab.planning.forecast.estimate import Estimate
from lab.planning.forecast.makespan import makespan
from lab.planning.plan.model import Plan, PlannedRun
from lab.refusals import Finding

NEW = "new"
_LONGEST_VALUE = 40
_IDENTITY = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class PlanPreview:
    """Everything that `lab plan` shows.

    Attributes:
        plan: the plan.
        states: identity → status, for the runs that have a folder; the others are new.
        estimates: identity → estimate.
        power: what the seeds can detect.
        parallel: the number of runs at once on this machine.
        fit: what fits into the budget; None if no budget was given.
        edited: names of finished runs of the plan → what of their components' code has been edited since.
        other_text: names of the sweep's runs that would be runs of the plan, had they been trained on the text of now.
        unchecked: what could not be checked on this machine, a few words each.
        left: identity → estimate of what is left, for the runs that have begun.
    """

    plan: Plan
    states: Mapping[str, str]
    estimates: Mapping[str, Estimate]
    power: Detectable
    parallel: int
    fit: BudgetFit | None = None
    edited: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    other_text: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    left: Mapping[str, Estimate] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """The plan for `--json`, with `findings`, `estimates` by identity and `power`.

        There may be `budget`, `edited` and `other_text` besides.
        """
        return {
            **self.plan.as_dict(self.states),
            "findings": [finding.as_dict() for finding in self.findings],
            "estimates": {identity: estimate.as_dict() for identity, estimate in self.estimates.items()},
            "power": self.power.as_dict(),
            "unchecked": list(self.unchecked),
            **({"budget": self.fit.as_dict()} if self.fit is not None else {}),
            **({"edited": {run: list(code) for run, code in self.edited.items()}} if self.edited else {}),
            **({"other_text": list(self.other_text)} if self.other_text else {}),
        }

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What keeps arms from being compared, and spans that change nothing."""
        return (*comparability_findings(self.plan), *span_findings(self.plan))

    @cached_property
    def arms(self) -> dict[str, list[PlannedRun]]:
        """Arm → all its runs."""
        return self.plan.arms

    @cached_property
    def runs(self) -> dict[str, list[PlannedRun]]:
        """Arm → the runs that will be trained. An arm that tunes reports one cell only."""
        return {arm: self._trained(runs) for arm, runs in self.arms.items()}

    def states_of(self, runs: Iterable[PlannedRun]) -> Counter[str]:
        """Status → number of runs."""
        return Counter(self.states.get(run.identity, NEW) for run in runs)

    def first(self, arm: str) -> PlannedRun:
        """The first reporting run of an arm, which represents the arm."""
        return next(run for run in self.arms[arm] if run.role == "report")

    def differences(self, arm: str) -> dict[str, tuple[object, object]]:
        """Key → (the baseline's value, the arm's value), for every resolved value in which an arm differs."""
        return differences(self._baseline, _plain(self.first(arm)))

    def time_left(self, runs: Iterable[PlannedRun]) -> tuple[float, float, float] | None:
        """Seconds until all runs have ended that haven't yet: the estimate, and its lower and upper bound.

        Of a run that has begun, only the rest is counted. None if the time of one of them is unknown.
        """
        open_runs = [run for run in runs if self.states.get(run.identity) not in _ENDED]
        known = [self.left.get(run.identity, self.estimates[run.identity]) for run in open_runs]
        if any(estimate.seconds is None for estimate in known):
            return None
        seconds, low, high = (
            makespan([(value or 0.0, 1) for value in values], self.parallel)
            for values in (
                [estimate.seconds for estimate in known],
                [estimate.low for estimate in known],
                [estimate.high for estimate in known],
            )
        )
        return seconds, low, high

    @cached_property
    def _baseline(self) -> dict[str, object]:
        return _plain(self.first(self.plan.baseline))

    def _trained(self, runs: list[PlannedRun]) -> list[PlannedRun]:
        reported: dict[int, PlannedRun] = {}
        for run in runs:
            if run.role == "report" and (run.seed not in reported or run.identity in self.states):
                reported[run.seed] = run
        return [*(run for run in runs if run.role == "tune"), *reported.values()]


_ENDED = ("finished", "diverged")


def difference_line(differences: Mapping[str, tuple[object, object]]) -> str:
    """Differences on one line: `heads gqa → mha, n_kv_heads 2 → –`."""
    keys = {key: key.removesuffix(".name") for key in differences}
    short = short_keys(dict.fromkeys(keys.values()))
    return ", ".join(
        f"{short[keys[key]]} {_short_value(old)} → {_short_value(new)}" for key, (old, new) in differences.items()
    )


def _plain(run: PlannedRun) -> dict[str, object]:
    plain: dict[str, object] = to_plain(run.experiment)
    del plain["name"], plain["seed"]
    return plain


def _short_value(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        text = ",".join(_short_value(item) for item in value) or "[]"
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        text = str(value) or "''"
    if _IDENTITY.fullmatch(text):
        return text[:8]
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"

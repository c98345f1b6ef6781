"""How planned runs will be measured, and which of them can't be compared with one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.composition.frozen.freeze import to_plain
from lab.planning.comparability.rules import BITS_PER_BYTE, Unlikeness, unlikenesses
from lab.planning.comparability.scoring import Scoring, scoring_of
from lab.planning.plan.model import Plan, PlannedRun
from lab.refusals import RequestError, Where
from lab.training.experiment import Experiment


def planned_scoring(experiment: Experiment) -> Scoring:
    """How a planned run will be measured."""
    plain = {
        "data": to_plain(experiment.data),
        "train": {"context": experiment.train.context, "mask_documents": experiment.train.mask_documents},
        "validation": {"tokens": experiment.validation.tokens},
        "recipe": to_plain(experiment.recipe),
        "evaluate": {name: to_plain(evaluator) for name, evaluator in experiment.evaluate.items()},
    }
    return scoring_of(plain)


def arm_scorings(plan: Plan) -> dict[str, Scoring]:
    """Arm → how its reported runs will be measured."""
    arms = {arm: next(run for run in runs if run.role == "report") for arm, runs in plan.arms.items()}
    return {arm: planned_scoring(run.experiment) for arm, run in arms.items()}


def unlike(metric: str, scorings: Mapping[str, Scoring], reference: str) -> dict[tuple[Unlikeness, ...], list[str]]:
    """Reasons → the names of those that can't be compared with the reference."""
    names_by_reason: dict[tuple[Unlikeness, ...], list[str]] = {}
    for name, scoring in scorings.items():
        if name != reference and scoring != scorings[reference]:
            reasons = unlikenesses(metric, scoring, scorings[reference])
            if reasons:
                names_by_reason.setdefault(reasons, []).append(name)
    return names_by_reason


def unlike_arms(plan: Plan, metric: str) -> frozenset[str]:
    """The arms whose metric can't be compared with the baseline's."""
    scorings = arm_scorings(plan)
    if plan.baseline not in scorings:
        return frozenset()
    return frozenset(arm for arms in unlike(metric, scorings, plan.baseline).values() for arm in arms)


def check_tuned_cells(runs: Sequence[PlannedRun], metric: str | None, where: Where) -> None:
    """Refuse tuned axes between whose values the metric can't be compared: the lowest value would mean nothing.

    Args:
        metric: the metric that decides; None if nothing is tuned.
        where: the place of the tuned axes in the sweep's file.

    Raises:
        RequestError: with the arm, two of its cells, and what differs.
    """
    cells: dict[str, dict[str, Scoring]] = {}
    for run in runs if metric is not None else ():
        cells.setdefault(run.arm, {}).setdefault(run.cell.name, planned_scoring(run.experiment))
    for arm, scorings in cells.items():
        first = next(iter(scorings))
        for reasons, names in unlike(metric or "", scorings, first).items():
            differences = "; ".join(reason.text for reason in reasons)
            problem = (
                f"{metric} can't decide between {names[0]} and {first} in arm '{arm}', because they differ in "
                f"{differences.replace('baseline', 'the second')}"
            )
            fix = "make the values a grid, whose arms are compared where they can be"
            if metric != BITS_PER_BYTE and all(reason.subject == "tokenizer" for reason in reasons):
                fix = f"write tune.metric: {BITS_PER_BYTE}, with validation.tokens: null to score the same bytes"
            elif metric == BITS_PER_BYTE and all(reason.subject == "scored bytes" for reason in reasons):
                fix = "write validation.tokens: null, so that the same bytes are scored in every cell"
            raise RequestError(problem, kind="conflict", where=where, fix=fix)

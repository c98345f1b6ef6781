"""What a plan could not check on this machine."""

from __future__ import annotations

from collections.abc import Iterator

from lab.composition import memo
from lab.planning.plan.model import Plan
from lab.planning.requirements.machine import unchecked_placement
from lab.planning.requirements.metrics import unknown_metrics, unmeasured_metrics
from lab.planning.requirements.placement import Placement
from lab.planning.requirements.texts import counts_of
from lab.training.data.requirements import held_out_shortage, unchecked_requirements
from lab.units import count


def unchecked(plan: Plan, placement: Placement) -> list[str]:
    """What the plan could not check, a few words each."""
    arms = {arm: runs[0] for arm, runs in plan.arms.items()}
    experiments = {arm: run.experiment for arm, run in arms.items()}
    with memo.scope():
        parts = dict.fromkeys(
            part for run in arms.values() for part in unchecked_requirements(run.experiment, counts_of(run))
        )
    metrics = [f"the metric {metric}" for metric in unknown_metrics(plan.metrics, experiments)]
    return [*parts, *metrics, *unchecked_placement(plan, placement)]


def shortages(plan: Plan) -> Iterator[str]:
    """One line for each metric that some arms lack, and for a validation text shorter than was asked for."""
    experiments = {arm: runs[0].experiment for arm, runs in plan.arms.items()}
    for metric, arms in unmeasured_metrics(plan.metrics, experiments).items():
        if len(arms) < len(experiments):
            yield f"{metric} is not measured by {', '.join(arms)}"
    with memo.scope():
        sizes = {
            (tokens, experiment.validation.tokens)
            for arm, experiment in experiments.items()
            if (tokens := held_out_shortage(experiment, counts_of(plan.arms[arm][0]))) is not None
        }
    for available, wanted in sorted(sizes):
        yield (
            f"validation uses all of the held-out text, {count(available)} tokens, fewer than "
            f"validation.tokens={wanted:,}"
        )

"""The time that is left of a run that has begun: its estimate without the work that is done."""

from __future__ import annotations

import math
from dataclasses import replace

from lab.planning.forecast.estimate import Estimate
from lab.records import Progress

EVALUATIONS = "evaluations/"


def remaining(whole: Estimate, progress: Progress | None, *, is_running: bool) -> Estimate:
    """The estimate of the rest of a run.

    Training, validation and checkpoints are left in proportion to the steps. Evaluations run in their order, and an
    interrupted one continues. A run that is not running starts up once more.

    Args:
        whole: the estimate of the whole run.
        progress: how far it is, at the step from which it goes on; None if it has no step.
    """
    if progress is None or not progress.steps or whole.seconds is None:
        return whole
    left = 1 - min(1.0, progress.step / progress.steps)
    evaluation = progress.evaluation if left == 0 else None
    evaluations = [name for name in whole.parts if name.startswith(EVALUATIONS)]
    current = f"{EVALUATIONS}{evaluation.name}" if evaluation is not None else None
    shares = dict.fromkeys(evaluations, 1.0)
    if evaluation is not None and current in evaluations:
        shares |= dict.fromkeys(evaluations[: evaluations.index(current)], 0.0)
        shares[current] = 1 - (evaluation.done or 0.0)
    shares["start-up"] = 0.0 if is_running else 1.0
    parts = {name: seconds * shares.get(name, left) for name, seconds in whole.parts.items()}
    seconds = math.fsum(parts.values())
    return replace(whole, seconds=seconds, low=seconds / whole.factor, high=seconds * whole.factor, parts=parts)

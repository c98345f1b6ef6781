"""How long the phases of a run take beside its steps, and how far measured runs of one workload differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lab.planning.forecast.history import FinishedRun
from lab.records import Workload, of_phase

VALIDATION_SPEED = 3.0
"""Validation tokens per training token in the same time, where it wasn't measured: a third of the FLOPs of a step."""

LEAST, ALONE, MOST = 1.1, 1.5, 4.0
"""Factors of an interval: the least, that of a single measured run, and the most."""
OTHER_SETTING, OTHER_SHAPE = 1.25, 1.5
"""What a factor is multiplied with for runs with other threads or another torch, and for runs of another shape."""


class PhaseSpeeds:
    """The seconds of phases in measured runs.

    Args:
        runs: finished runs on the same hardware.

    Attributes:
        start_up: median seconds; None if no run has them.
        validation: how many validation tokens take as long as one training token.
    """

    def __init__(self, runs: Sequence[FinishedRun]) -> None:
        self._runs = runs
        self.start_up = _median([value for run in runs if (value := of_phase(run.seconds, "start-up")) is not None])
        self.validation = _median([rate for run in runs if (rate := _validation_rate(run))]) or VALIDATION_SPEED

    def checkpoint(self, workload: Workload) -> float | None:
        """Seconds of writing checkpoints in a run, in proportion to its parameters; None if no run has them."""
        shares = [
            run.seconds["checkpoints"] / run.workload.parameters
            for run in self._runs
            if "checkpoints" in run.seconds and run.workload is not None and run.workload.parameters
        ]
        share = _median(shares)
        return None if share is None else share * workload.parameters

    def evaluation(self, experiment: str, name: str, workload: Workload) -> float | None:
        """Seconds of an evaluation, in proportion to the FLOPs of a token; None if no run of the experiment has it."""
        shares = [
            run.evaluation_seconds[name] / run.workload.flops_per_token
            for run in self._runs
            if run.experiment == experiment and name in run.evaluation_seconds and run.workload is not None
        ]
        share = _median(shares)
        return None if share is None else share * workload.flops_per_token


def spread(speeds: Sequence[float]) -> float:
    """The factor within which nine of ten new runs are expected, from the speeds of measured ones.

    It is the prediction interval of one more value with normal errors of the logarithm.
    """
    n = len(speeds)
    if n < 2:
        return ALONE
    from scipy.stats import t

    deviation = statistics.stdev(map(math.log, speeds))
    return min(MOST, max(LEAST, math.exp(float(t.ppf(0.95, n - 1)) * deviation * math.sqrt(1 + 1 / n))))


def _validation_rate(run: FinishedRun) -> float | None:
    seconds = run.seconds.get("validation")
    if not seconds or not run.validation_tokens or not run.tokens_per_second:
        return None
    return run.validation_tokens / seconds / run.tokens_per_second


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None

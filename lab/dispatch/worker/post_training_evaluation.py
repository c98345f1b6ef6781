"""Runs the evaluations that a run's configuration lists, after training and in the same process."""

from __future__ import annotations

from collections.abc import Callable

from lab.dispatch.worker.attempt import Stop
from lab.records import RunFolder, Summary
from lab.training.options import Accelerator


def conclusion(run: RunFolder, accelerator: Accelerator, stop: Stop) -> Callable[[Summary], Summary]:
    """What `lab.training.loop.train` calls with the summary of a finished run: evaluates it, and adds the metrics.

    An evaluation that is stopped or killed goes on in the next attempt, and one that is whole is not made again.
    """

    def conclude(summary: Summary) -> Summary:
        from lab.evaluation.evaluate import evaluate, pending_evaluations
        from lab.evaluation.results_store import with_evaluations

        for name, request in pending_evaluations(run).items():
            evaluate(run, request, accelerator=accelerator, save_as=name, stop=stop)
        return with_evaluations(run, summary)

    return conclude

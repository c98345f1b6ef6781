"""Compare other metrics than those that a sweep declares: any that its finished runs have measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lab.comparison.read.results import SweepResults
from lab.refusals import RequestError


def choose_metrics(sweep: SweepResults, metrics: Sequence[str]) -> SweepResults:
    """The sweep with these metrics instead of its own; unchanged without any.

    A margin of equivalence stays with the metric that the sweep declares it for.

    Raises:
        RequestError: no run of the sweep has measured a metric.
    """
    if not metrics:
        return sweep
    measured = sweep.measured
    for metric in metrics:
        if metric not in measured:
            problem = f"no run of sweep '{sweep.name}' has measured '{metric}'"
            raise RequestError(problem, kind="not_found", key="--metric", given=metric, expected=measured)
    return replace(sweep, metrics=tuple(dict.fromkeys(metrics)))

"""Runs the evaluations that a run's configuration lists, after training and in the same process."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from lab.dispatch.worker.attempt import Report, Stop
from lab.records import BrokenRecord, EvaluationProgress, Progress, RunFolder, Summary, run_paths
from lab.training.options import Accelerator

_TRUSTED_SHARE = 0.05
"""The share of an evaluation from which its own speed says how long the rest takes."""


def conclusion(run: RunFolder, accelerator: Accelerator, stop: Stop, report: Report) -> Callable[[Summary], Summary]:
    """What `lab.training.loop.train` calls with the summary of a finished run: evaluates it, and adds the metrics.

    An evaluation that is stopped or killed goes on in the next attempt, and one that is whole is not made again.
    """

    def conclude(summary: Summary) -> Summary:
        from lab.evaluation.evaluate import evaluate, pending_evaluations
        from lab.evaluation.results_store import with_evaluations

        pending = pending_evaluations(run)
        progress = EvaluationReport(report, _finished(run, summary), list(pending), evaluation_seconds(run))
        for name, request in pending.items():
            progress.begin(name)
            evaluate(run, request, accelerator=accelerator, save_as=name, stop=stop, report=progress.note)
        return with_evaluations(run, summary)

    return conclude


class EvaluationReport:
    """Reports how far the evaluations of a run have come, and how long the rest takes.

    Args:
        report: called with the progress.
        trained: the progress of the run at the end of training.
        names: the evaluations, in order.
        expected: evaluation → seconds that it took in other runs; those without a measurement are missing.
        now: returns seconds that never go back.
    """

    def __init__(
        self,
        report: Report,
        trained: Progress,
        names: list[str],
        expected: Mapping[str, float],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report, self._trained, self._names, self._expected = report, trained, names, expected
        self._now = now
        self._current = 0
        self._began = now()

    def begin(self, name: str) -> None:
        """An evaluation begins."""
        self._current, self._began = self._names.index(name), self._now()
        self._send(None)

    def note(self, done: int, total: int, step: str) -> None:
        """The current evaluation has done a part of its work; the arguments are those of `lab.evaluation.session`."""
        self._send(done / total if total else None)

    def _send(self, done: float | None) -> None:
        name = self._names[self._current]
        evaluation = EvaluationProgress(name, self._current + 1, len(self._names), done)
        left = [self._left(name, done), *(self._expected.get(other) for other in self._names[self._current + 1 :])]
        known = [seconds for seconds in left if seconds is not None]
        self._report(
            dataclasses.replace(
                self._trained,
                phase="evaluations",
                evaluation=evaluation,
                evaluations=len(self._names),
                evaluation_seconds=sum(known) if len(known) == len(left) else None,
            )
        )

    def _left(self, name: str, done: float | None) -> float | None:
        elapsed = self._now() - self._began
        if done is not None and done >= _TRUSTED_SHARE:
            return elapsed * (1 - done) / done
        expected = self._expected.get(name)
        return None if expected is None else max(0.0, expected - elapsed)


def with_evaluation_seconds(run: RunFolder, evaluations: Iterable[str], report: Report) -> Report:
    """A report that adds to each progress of training how long the evaluations after it are expected to take."""
    names = list(evaluations)
    expected = evaluation_seconds(run) if names else {}
    known = [expected[name] for name in names if name in expected]
    seconds = sum(known) if len(known) == len(names) else None

    def complete(progress: Progress) -> None:
        is_later = progress.evaluation is None
        report(dataclasses.replace(progress, evaluation_seconds=seconds) if is_later else progress)

    return complete


def evaluation_seconds(run: RunFolder) -> dict[str, float]:
    """Evaluation → median seconds that it took in the finished runs of the same sweep."""
    seconds: dict[str, list[float]] = {}
    for path in run_paths(run.path.parents[2], run.path.parents[1].name):
        with suppress(BrokenRecord):
            summary = RunFolder(path).summary
            for name, value in (summary.evaluation_seconds if summary is not None else {}).items():
                seconds.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _finished(run: RunFolder, summary: Summary) -> Progress:
    """The progress of a run whose training has just ended with this summary."""
    steps, progress = summary.steps or 0, run.state.progress
    if progress is not None:
        return dataclasses.replace(progress, step=steps, steps=steps, seconds_after_steps=0.0)
    return Progress(steps, steps, int(summary.costs.get("tokens", 0)))

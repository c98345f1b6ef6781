"""Evaluates a run for a command: shows progress, and claims the run folder while the result is written."""

from __future__ import annotations

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from lab.dispatch.worker.claim import holder, writing
from lab.evaluation.evaluate import EvaluationRequest, SavedEvaluation, evaluate
from lab.evaluation.imported import missing_special_tokens
from lab.records import RunFolder
from lab.refusals import RequestError
from lab.terminal import description_column, plain_console
from lab.training.options import Accelerator

LINES_SECONDS = 10.0
"""Seconds between two lines of progress where there is no terminal."""


def evaluate_with_progress(
    run: RunFolder, name: str, request: EvaluationRequest, accelerator: Accelerator, *, replaces: bool = False
) -> SavedEvaluation:
    """Evaluate a run with a progress bar, and save the result in its folder.

    Args:
        name: of the result below the run's `evaluations/`.
        replaces: replace an evaluation of the run's configuration that has other options.
    Raises:
        RequestError: the run is being trained, or can't be evaluated as requested.
    """
    if run.state.status == "running" and holder(run.path) is not None:
        raise RequestError(f"{run.name} is being trained; evaluate it after it has ended, or cancel it")
    console = plain_console(stderr=True)
    if (note := missing_special_tokens(run)) is not None:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    bar = Progress(
        description_column(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(f"{run.name}: {name}", total=None)

        last_line = time.monotonic()

        def report(done: int, total: int, step: str) -> None:
            nonlocal last_line
            label = f"{run.name}: {name}" + (f", {step}" if step else "")
            bar.update(task, completed=done, total=total, description=label)
            if not console.is_terminal and time.monotonic() - last_line >= LINES_SECONDS:
                last_line = time.monotonic()
                console.print(f"{label}: {done:,} of {total:,}", markup=False, highlight=False, soft_wrap=True)

        return evaluate(
            run,
            request,
            accelerator=accelerator,
            save_as=name,
            report=report,
            writing=writing(run.path),
            replaces=replaces,
        )

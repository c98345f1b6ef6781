"""An evaluation as a command makes it: with a bar on a terminal, and the right to write when it comes to that."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lab.dispatch.worker.claim import holder, writing
from lab.evaluation.evaluate import Evaluated, EvaluationRequest, evaluate
from lab.records import RunFolder
from lab.refusals import RequestError

LINES_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""


def measured(run: RunFolder, name: str, asked: EvaluationRequest, accelerator: Any) -> Evaluated:
    """Evaluate a run, and keep what is found in its folder.

    Raises:
        RequestError: the run is being trained, or cannot be evaluated so.
    """
    if run.state.status == "running" and holder(run.path) is not None:
        raise RequestError(f"{run.name} is being trained; evaluate it when it has ended or been cancelled")
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(f"{run.name}: {name}", total=None)

        said = time.monotonic()

        def report(done: int, total: int, what: str) -> None:
            nonlocal said
            label = f"{run.name}: {name}" + (f", {what}" if what else "")
            bar.update(task, completed=done, total=total, description=label)
            if not console.is_terminal and time.monotonic() - said >= LINES_SECONDS:
                said = time.monotonic()
                console.print(f"{label}: {done:,} of {total:,}", markup=False, highlight=False, soft_wrap=True)

        return evaluate(run, asked, accelerator=accelerator, save_as=name, report=report, writing=writing(run.path))

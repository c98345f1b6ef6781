"""The files of an evaluation in a run's folder.

    evaluations/<name>.json             all results except the images
    evaluations/<name>/*.png            the images
    summary.json                        the metrics, as <name>/<metric>, if the run has a summary
    metrics.jsonl                       the metrics, at the step of the weights
    events.out.tfevents.*.eval-<name>   the metrics and the images, for TensorBoard

A sweep can use such a metric like any other. A new evaluation replaces the one of the same name in all of these files.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lab.evaluation.base import EvaluationOutput
from lab.records import (
    EVALUATIONS,
    BrokenRecord,
    EvaluationRecord,
    RunFolder,
    Summary,
    add_point,
    read_evaluation,
    read_evaluations,
    write_evaluation,
)
from lab.refusals import RequestError
from lab.training.evaluator_needs import refusal_of_evaluation_name
from lab.training.options import TRAINING_METRICS
from lab.training.progress.event_file import EventFile


def check_name(name: str) -> None:
    """Check that an evaluation can have this name.

    Raises:
        RequestError: it can't; the message has the reason.
    """
    if (reason := refusal_of_evaluation_name(name)) is not None:
        raise RequestError(f"--as: {reason}")


def partial_path(run: RunFolder, name: str) -> Path:
    """The file with the finished parts of an incomplete evaluation."""
    return run.path / EVALUATIONS / f".{name}.partial.jsonl"


def load(run: RunFolder, name: str) -> EvaluationRecord | None:
    """Read `evaluations/<name>.json`; None if it is missing or can't be read."""
    try:
        return read_evaluation(run.path, name)
    except BrokenRecord:
        return None


def save(run: RunFolder, name: str, work: EvaluationRecord, output: EvaluationOutput) -> EvaluationRecord:
    """Write an evaluation into a run's folder, and return the content of its JSON file.

    Only the process that holds the run's claim may call this.

    Args:
        work: the record without results.
    """
    record = replace(
        work,
        metrics=output.metrics,
        curves=output.curves,
        images=tuple(f"{EVALUATIONS}/{name}/{key}.png" for key in output.images),
        details=output.details,
    )
    folder = run.path / EVALUATIONS
    folder.mkdir(exist_ok=True)
    shutil.rmtree(folder / name, ignore_errors=True)
    for key, image in output.images.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"{key}.png").write_bytes(image)
    step = work.step or 0
    scalars = {f"{name}/{key}": float(value) for key, value in output.metrics.items()}
    add_point(run.path, name, step, scalars)
    _write_events(run.path, name, step, scalars, output.images)
    write_evaluation(run.path, name, record)
    summary = run.summary
    if summary is not None:
        run.summary = with_evaluations(run, summary)
    return record


def with_evaluations(run: RunFolder, summary: Summary) -> Summary:
    """The summary with the metrics of all saved evaluations of the same weights."""
    metrics = {key: value for key, value in summary.metrics.items() if key.split("/")[0] in TRAINING_METRICS}
    for name, evaluation in read_evaluations(run.path).items():
        if evaluation.step == summary.steps:
            metrics |= {f"{name}/{key}": value for key, value in evaluation.metrics.items()}
    return replace(summary, metrics=metrics)


def _write_events(
    folder: Path, name: str, step: int, scalars: Mapping[str, float], images: Mapping[str, bytes]
) -> None:
    label = f"eval-{name}"
    for stale in [path for path in folder.glob("events.out.tfevents.*") if path.name.endswith(f".{label}")]:
        stale.unlink()
    events = EventFile(folder, step, label=label)
    events.add(scalars, step)
    events.add_images({f"{name}/{key}": image for key, image in images.items()}, step)
    events.close()

"""Where an evaluation stays: in files of its own, and beside what training measured.

    evaluations/<name>.json             everything that was found, images aside
    evaluations/<name>/*.png            the images
    summary.json                        its metrics among the run's, as <name>/<metric>, where the run has a summary
    metrics.jsonl                       the same at the step that the weights had seen
    events.out.tfevents.*.eval-<name>   the same and the images, for TensorBoard

So an evaluation's metric can be a sweep's like any other. A later evaluation under a name takes the place of the one
before, everywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lab.evaluation.base import Findings
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
from lab.training.experiment import TRAINING_METRICS, refusal_of_evaluation_name
from lab.training.progress.event_file import EventFile


def check_name(name: str) -> None:
    """Refuse a name that an evaluation can't be kept under.

    Raises:
        RequestError: saying why.
    """
    if (reason := refusal_of_evaluation_name(name)) is not None:
        raise RequestError(f"--as: {reason}")


def partial_path(run: RunFolder, name: str) -> Path:
    """Where the parts of an evaluation are kept until it is whole."""
    return run.path / EVALUATIONS / f".{name}.partial.jsonl"


def kept(run: RunFolder, name: str) -> EvaluationRecord | None:
    """What `evaluations/<name>.json` holds; None where there is none that can be read."""
    try:
        return read_evaluation(run.path, name)
    except BrokenRecord:
        return None


def keep(run: RunFolder, name: str, work: EvaluationRecord, findings: Findings) -> EvaluationRecord:
    """Write an evaluation into a run's folder; returns what its JSON file holds.

    Only the process that may write in the folder may call it.

    Args:
        work: what was done, without what was found.
    """
    record = replace(
        work,
        metrics=findings.metrics,
        curves=findings.curves,
        images=tuple(f"{EVALUATIONS}/{name}/{key}.png" for key in findings.images),
        details=findings.details,
    )
    folder = run.path / EVALUATIONS
    folder.mkdir(exist_ok=True)
    shutil.rmtree(folder / name, ignore_errors=True)
    for key, image in findings.images.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"{key}.png").write_bytes(image)
    step = work.step or 0
    scalars = {f"{name}/{key}": float(value) for key, value in findings.metrics.items()}
    add_point(run.path, name, step, scalars)
    _write_events(run.path, name, step, scalars, findings.images)
    write_evaluation(run.path, name, record)
    summary = run.summary
    if summary is not None:
        run.summary = with_evaluations(run, summary)
    return record


def with_evaluations(run: RunFolder, summary: Summary) -> Summary:
    """A run's summary with the metrics of the evaluations that its folder holds; of other weights' none."""
    metrics = {key: value for key, value in summary.metrics.items() if key.split("/")[0] in TRAINING_METRICS}
    for name, evaluation in read_evaluations(run.path).items():
        if evaluation.step == summary.steps:
            metrics |= {f"{name}/{key}": value for key, value in evaluation.metrics.items()}
    return replace(summary, metrics=metrics)


def _write_events(
    folder: Path, name: str, step: int, scalars: Mapping[str, float], images: Mapping[str, bytes]
) -> None:
    label = f"eval-{name}"
    for earlier in [path for path in folder.glob("events.out.tfevents.*") if path.name.endswith(f".{label}")]:
        earlier.unlink()
    events = EventFile(folder, step, label=label)
    events.add(scalars, step)
    events.add_images({f"{name}/{key}": image for key, image in images.items()}, step)
    events.close()

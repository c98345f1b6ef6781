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

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.evaluation.base import Findings
from lab.records import RunFolder
from lab.records.atomic import write_json, write_text
from lab.refusals import RequestError
from lab.training.experiment import TRAINING_METRICS, refusal_of_evaluation_name
from lab.training.progress.event_file import EventFile

FOLDER = "evaluations"


def check_name(name: str) -> None:
    """Refuse a name that an evaluation can't be kept under.

    Raises:
        RequestError: saying why.
    """
    if (reason := refusal_of_evaluation_name(name)) is not None:
        raise RequestError(f"--as: {reason}")


def partial_path(run: RunFolder, name: str) -> Path:
    """Where the parts of an evaluation are kept until it is whole."""
    return run.path / FOLDER / f".{name}.partial.jsonl"


def kept(run: RunFolder, name: str) -> dict[str, Any] | None:
    """What `evaluations/<name>.json` holds; None where there is none that can be read."""
    try:
        found = json.loads((run.path / FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def keep(run: RunFolder, name: str, work: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Write an evaluation into a run's folder; returns what its JSON file holds.

    Only whoever may write in the folder may call it.
    """
    result = {
        **work,
        "metrics": findings.metrics,
        "curves": {key: asdict(curve) for key, curve in findings.curves.items()},
        "images": [f"{FOLDER}/{name}/{key}.png" for key in findings.images],
        "details": dict(findings.details),
    }
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    shutil.rmtree(folder / name, ignore_errors=True)
    for key, image in findings.images.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"{key}.png").write_bytes(image)
    scalars = {f"{name}/{key}": float(value) for key, value in findings.metrics.items()}
    _add_point(run.path / "metrics.jsonl", name, work["step"], scalars)
    _write_events(run.path, name, work["step"], scalars, findings.images)
    write_json(folder / f"{name}.json", result)
    summary = run.summary
    if summary is not None:
        write_json(run.path / "summary.json", with_evaluations(run, summary))
    return result


def with_evaluations(run: RunFolder, summary: Mapping[str, Any]) -> dict[str, Any]:
    """A run's summary with the metrics of the evaluations that its folder holds; of other weights' none."""
    metrics = {key: value for key, value in summary["metrics"].items() if key.split("/")[0] in TRAINING_METRICS}
    for name in sorted(path.stem for path in (run.path / FOLDER).glob("*.json")):
        found = kept(run, name)
        if found is not None and found["step"] == summary["costs"]["steps"]:
            metrics |= {f"{name}/{key}": value for key, value in found["metrics"].items()}
    return {**summary, "metrics": metrics}


def _add_point(path: Path, name: str, step: int, scalars: Mapping[str, float]) -> None:
    """One point on the curves of metrics.jsonl, in place of an earlier one of the same name at that step."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if not (f'"{name}/' in line and _is_point(json.loads(line), name, step))]
    finite = {key: value for key, value in scalars.items() if math.isfinite(value)}
    write_text(path, "".join([*kept, json.dumps({"step": step, **finite}) + "\n"]))


def _is_point(point: Mapping[str, Any], name: str, step: int) -> bool:
    return point["step"] == step and all(key == "step" or key.startswith(f"{name}/") for key in point)


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

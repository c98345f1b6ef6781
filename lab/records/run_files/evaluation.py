"""`evaluations/<name>.json`: what an evaluator found in a run, images aside; they lie in `evaluations/<name>/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab.records.atomic import write_json
from lab.records.checks import BrokenRecord, Fields, is_measured, parse, read_bytes

EVALUATIONS = "evaluations"
VERSION = 2
FOUND = ("metrics", "curves", "images", "details")
"""Keys of what was found; the others say what was measured, and how."""


@dataclass(frozen=True)
class EvaluationCurve:
    """What was measured along something.

    Attributes:
        x, y: what the two numbers of a point are, with their units, as a plot's axes say it.
        points: (x, y), in order.
    """

    x: str
    y: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One evaluation of a run.

    Attributes:
        version: of evaluations; an evaluation of an older one is made anew where a run asks for it.
        evaluator, evaluator_version, options: what measured, and how.
        identity: of the run.
        step: optimizer steps that the weights had seen; None where the file doesn't say.
        steps: of the run's whole training; None for an imported model.
        data: the text that was looked at.
        metrics: name → number.
        curves: by name.
        images: paths below the run's folder.
        details: whatever else was kept.
        extra: what the file holds besides.
    """

    version: int = VERSION
    evaluator: str | None = None
    evaluator_version: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    identity: str | None = None
    step: int | None = None
    steps: int | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    device: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, EvaluationCurve] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    details: Mapping[str, object] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def reach(self) -> float | None:
        """How many tokens all layers of the model together can look back; None if unlimited or not known."""
        reach = self.details.get("reach")
        return float(reach) if is_measured(reach) else None

    @property
    def data_digest(self) -> str | None:
        """Digest of the text that was looked at."""
        digest = self.data.get("digest")
        return digest if isinstance(digest, str) else None

    def as_json(self) -> dict[str, object]:
        """The file's content."""
        return {
            "version": self.version,
            "evaluator": self.evaluator,
            "evaluator_version": self.evaluator_version,
            "options": dict(self.options),
            "identity": self.identity,
            "step": self.step,
            "steps": self.steps,
            "data": dict(self.data),
            "device": self.device,
            "metrics": dict(self.metrics),
            "curves": {name: asdict(curve) for name, curve in self.curves.items()},
            "images": list(self.images),
            "details": dict(self.details),
            **self.extra,
        }


def evaluation_path(folder: Path, name: str) -> Path:
    """Where a run's folder keeps an evaluation."""
    return folder / EVALUATIONS / f"{name}.json"


def read_evaluation(folder: Path, name: str) -> EvaluationRecord:
    """An evaluation in a run's folder.

    Raises:
        BrokenRecord: it is missing, can't be read, or a value in it is wrong.
    """
    path = evaluation_path(folder, name)
    return parse(path, read_bytes(path), _evaluation, newest=VERSION, what="an evaluation")


def read_evaluations(folder: Path) -> dict[str, EvaluationRecord]:
    """Every evaluation in a run's folder that can be read, by name."""
    found = {}
    for path in sorted((folder / EVALUATIONS).glob("*.json")):
        try:
            found[path.stem] = read_evaluation(folder, path.stem)
        except BrokenRecord:
            continue
    return found


def write_evaluation(folder: Path, name: str, evaluation: EvaluationRecord) -> None:
    """Write an evaluation in one step, in place of an earlier one."""
    write_json(evaluation_path(folder, name), evaluation.as_json())


_KEYS = frozenset(
    ("version", "evaluator", "evaluator_version", "options", "identity", "step", "steps", "data", "device", "metrics",
     "curves", "images", "details")
)  # fmt: skip


def _evaluation(fields: Fields) -> EvaluationRecord:
    images = fields.any("images")
    return EvaluationRecord(
        version=fields.whole("version", 1),
        evaluator=fields.text_or_none("evaluator"),
        evaluator_version=fields.whole_or_none("evaluator_version"),
        options=_mapping(fields, "options"),
        identity=fields.text_or_none("identity"),
        step=fields.whole_or_none("step"),
        steps=fields.whole_or_none("steps"),
        data=_mapping(fields, "data"),
        device=fields.text_or_none("device"),
        metrics=fields.numbers("metrics"),
        curves=_curves(_mapping(fields, "curves")),
        images=tuple(str(image) for image in images) if isinstance(images, list) else (),
        details=_mapping(fields, "details"),
        extra=fields.others(_KEYS),
    )


def _mapping(fields: Fields, key: str) -> Mapping[str, object]:
    """A part of an evaluation; empty where it is none, as the others can still be shown."""
    value = fields.any(key)
    return value if isinstance(value, dict) else {}


def _curves(entries: Mapping[str, object]) -> dict[str, EvaluationCurve]:
    """The curves, of points that are two numbers each, by x."""
    curves = {}
    for name, entry in entries.items():
        if isinstance(entry, dict) and isinstance(points := entry.get("points"), list):
            pairs = [point for point in points if isinstance(point, list) and len(point) == 2]
            measured = sorted((float(x), float(y)) for x, y in pairs if is_measured(x) and is_measured(y))
            curves[name] = EvaluationCurve(str(entry.get("x", "")), str(entry.get("y", "")), tuple(measured))
    return curves

"""`evaluations/<name>.json`: the results of an evaluator on a run. Its images are in `evaluations/<name>/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab.records.atomic import write_json
from lab.records.checks import BrokenRecord, Fields, is_measured, parse, read_bytes

EVALUATIONS = "evaluations"
VERSION = 2
RESULT_KEYS = ("metrics", "curves", "images", "details")
"""Keys of the results; the other keys say what was measured, and how."""


@dataclass(frozen=True)
class EvaluationCurve:
    """A measurement along an axis, such as the loss by position.

    Attributes:
        x, y: labels of a plot's axes, with units.
        points: (x, y), ordered by x.
    """

    x: str
    y: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One evaluation of a run.

    Attributes:
        version: of the format. An evaluation of an older version is repeated when it is needed.
        evaluator, evaluator_version, options: the evaluator that measured, and its options.
        identity: of the run.
        step: optimizer steps that the weights were trained for; None where it isn't recorded.
        steps: optimizer steps of the run's whole training; None for an imported model.
        data: facts about the text that was read.
        metrics: name → number.
        curves: name → curve.
        images: paths below the run's folder.
        details: other results of the evaluator.
        extra: other entries of the file.
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
        """How many tokens the model can look back through all layers; None if unlimited or not known."""
        reach = self.details.get("reach")
        return float(reach) if is_measured(reach) else None

    @property
    def data_digest(self) -> str | None:
        """Digest of the text that was read."""
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
    """The file of an evaluation in a run's folder."""
    return folder / EVALUATIONS / f"{name}.json"


def read_evaluation(folder: Path, name: str) -> EvaluationRecord:
    """Read an evaluation in a run's folder.

    Raises:
        BrokenRecord: it is missing, can't be read, or a value in it is wrong.
    """
    path = evaluation_path(folder, name)
    return parse(path, read_bytes(path), _evaluation, newest=VERSION, what="an evaluation")


def read_evaluations(folder: Path) -> dict[str, EvaluationRecord]:
    """Every evaluation in a run's folder that can be read, by name."""
    evaluations = {}
    for path in sorted((folder / EVALUATIONS).glob("*.json")):
        try:
            evaluations[path.stem] = read_evaluation(folder, path.stem)
        except BrokenRecord:
            continue
    return evaluations


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
        version=fields.integer("version", 1),
        evaluator=fields.text_or_none("evaluator"),
        evaluator_version=fields.integer_or_none("evaluator_version"),
        options=_mapping(fields, "options"),
        identity=fields.text_or_none("identity"),
        step=fields.integer_or_none("step"),
        steps=fields.integer_or_none("steps"),
        data=_mapping(fields, "data"),
        device=fields.text_or_none("device"),
        metrics=fields.numbers("metrics"),
        curves=_curves(_mapping(fields, "curves")),
        images=tuple(str(image) for image in images) if isinstance(images, list) else (),
        details=_mapping(fields, "details"),
        extra=fields.others(_KEYS),
    )


def _mapping(fields: Fields, key: str) -> Mapping[str, object]:
    """A mapping; empty where it isn't one, as the rest of the evaluation can still be shown."""
    value = fields.any(key)
    return value if isinstance(value, dict) else {}


def _curves(entries: Mapping[str, object]) -> dict[str, EvaluationCurve]:
    """The curves by name. Points that aren't two numbers are left out."""
    curves = {}
    for name, entry in entries.items():
        if isinstance(entry, dict) and isinstance(points := entry.get("points"), list):
            pairs = [point for point in points if isinstance(point, list) and len(point) == 2]
            measured = sorted((float(x), float(y)) for x, y in pairs if is_measured(x) and is_measured(y))
            curves[name] = EvaluationCurve(str(entry.get("x", "")), str(entry.get("y", "")), tuple(measured))
    return curves

"""The evaluations that a run's folder keeps, `evaluations/<name>.json`, as far as a report shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.comparison.read.points import is_measured

FOLDER = "evaluations"


@dataclass(frozen=True)
class EvaluationCurve:
    """Something that an evaluator measured along an axis.

    Attributes:
        points: (x, y), by x.
    """

    x_title: str
    y_title: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        evaluator: which one made it; None if the file doesn't say.
        metrics: name → value, NaN and infinities among them.
        reach: how many tokens all layers of the model together can look back; None if unlimited or not known.
    """

    evaluator: str | None
    metrics: Mapping[str, float]
    curves: Mapping[str, EvaluationCurve]
    reach: float | None


def read_evaluations(folder: Path) -> dict[str, Evaluation]:
    """Name → evaluation, for every file that can be read; values that no evaluator writes are left out."""
    evaluations = {}
    for path in sorted((folder / FOLDER).glob("*.json")):
        with suppress(OSError, ValueError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                evaluations[path.stem] = _evaluation(content)
    return evaluations


def _evaluation(content: Mapping[str, object]) -> Evaluation:
    evaluator, reach = content.get("evaluator"), _mapping(content.get("details")).get("reach")
    metrics, curves = _mapping(content.get("metrics")), _mapping(content.get("curves"))
    return Evaluation(
        evaluator=evaluator if isinstance(evaluator, str) else None,
        metrics={
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, float) or (isinstance(value, int) and is_measured(value))
        },
        curves={name: curve for name, value in curves.items() if (curve := _curve(_mapping(value))).points},
        reach=float(reach) if is_measured(reach) else None,
    )


def _curve(content: Mapping[str, object]) -> EvaluationCurve:
    listed, points = content.get("points"), []
    for point in listed if isinstance(listed, list) else ():
        match point:
            case [x, y] if is_measured(x) and is_measured(y):
                points.append((float(x), float(y)))
    return EvaluationCurve(str(content.get("x", "")), str(content.get("y", "")), tuple(sorted(points)))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}

"""The labels of a sweep: its question and how its arms are compared. plan.json and every run.json have them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.records.checks import Fields, WrongValue, is_number, shorten


@dataclass(frozen=True, kw_only=True)
class SweepLabels:
    """A sweep's question and how its arms are compared. A label that isn't recorded is None or empty.

    Attributes:
        baseline: the arm that the others are compared with.
        metrics: the compared metrics, the deciding one first.
        match: the quantity that is equal in all arms.
        matching: how the arms were matched, in full.
        tune_metric: the metric that tuned values are selected by; lower is better.
        equivalence: the largest difference in the first metric that counts as equivalent, in its unit.
    """

    question: str | None = None
    baseline: str | None = None
    metrics: tuple[str, ...] = ()
    match: str | None = None
    matching: Mapping[str, object] = field(default_factory=dict)
    tune_metric: str | None = None
    equivalence: float | None = None

    @classmethod
    def of(cls, fields: Fields) -> SweepLabels:
        """The labels in a plan.json or a run.json."""
        metrics = fields.any("metrics")
        if isinstance(metrics, list) and not all(isinstance(name, str) and name for name in metrics):
            raise fields.wrong("metrics", "a list of names or null")
        matching = fields.mapping("matching")
        tolerance = matching.get("tolerance")
        if tolerance is not None and not (is_number(tolerance) and math.isfinite(tolerance) and tolerance >= 0):
            problem = f"expected a number from 0 up or null, got {shorten(tolerance)}"
            raise WrongValue("matching.tolerance", problem)
        equivalence = fields.any("equivalence")
        return cls(
            question=fields.text_or_none("question"),
            baseline=fields.text_or_none("baseline"),
            metrics=fields.texts("metrics"),
            match=fields.text_or_none("match"),
            matching=matching,
            tune_metric=fields.text_or_none("tune_metric"),
            equivalence=equivalence if is_number(equivalence) and 0 < equivalence < math.inf else None,
        )

    @property
    def tolerance(self) -> float | None:
        """The largest deviation from the baseline that counts as matched, as a fraction."""
        tolerance = self.matching.get("tolerance")
        return float(tolerance) if is_number(tolerance) else None

    @property
    def knob(self) -> str | None:
        """The option that matching adjusted; None where it adjusted none."""
        knob = self.matching.get("knob")
        return knob if isinstance(knob, str) else None

    def completed_by(self, other: SweepLabels) -> SweepLabels:
        """A copy in which missing labels are taken from `other`."""
        return SweepLabels(
            question=self.question if self.question is not None else other.question,
            baseline=self.baseline if self.baseline is not None else other.baseline,
            metrics=self.metrics or other.metrics,
            match=self.match if self.match is not None else other.match,
            matching=self.matching or other.matching,
            tune_metric=self.tune_metric if self.tune_metric is not None else other.tune_metric,
            equivalence=self.equivalence if self.equivalence is not None else other.equivalence,
        )

    def as_json(self) -> dict[str, object]:
        """As a plan.json holds them."""
        return {
            "baseline": self.baseline,
            "question": self.question,
            "metrics": list(self.metrics),
            "match": self.match,
            "matching": dict(self.matching),
            "tune_metric": self.tune_metric,
            "equivalence": self.equivalence,
        }

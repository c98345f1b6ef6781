"""How far a run has come, and where its seconds went, as parts of state.json and summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from lab.records.checks import Fields

Phase = Literal["start-up", "building", "training", "validation", "checkpoints", "evaluations"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class EvaluationProgress:
    """How far the evaluations at the end of a run have come.

    Attributes:
        name: of the current evaluation.
        number: of the current evaluation, from 1.
        total: number of evaluations.
        done: share of the current one, from 0 to 1; None if it isn't known.
    """

    name: str
    number: int
    total: int
    done: float | None = None

    @property
    def text(self) -> str:
        """`evaluating recall, 2 of 3, 40%`."""
        share = "" if self.done is None else f", {self.done:.0%}"
        return f"evaluating {self.name}, {self.number} of {self.total}{share}"


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: optimizer steps done.
        steps: optimizer steps in the budget.
        tokens: training tokens done.
        loss: training loss of the last step, nats per token; None before the first of this attempt.
        tokens_per_second: of this attempt, without validation and checkpoints; None until it is known.
        phase: what the run is doing.
        evaluation: the current evaluation; None before the evaluations.
        evaluations: number of evaluations that follow training.
        seconds_after_steps: expected seconds of validation and checkpoints that are still to come.
        evaluation_seconds: expected seconds of the evaluations that are still to come; None if it isn't known.
    """

    step: int
    steps: int
    tokens: int
    loss: float | None = None
    tokens_per_second: float | None = None
    phase: Phase = "training"
    evaluation: EvaluationProgress | None = None
    evaluations: int = 0
    seconds_after_steps: float = 0.0
    evaluation_seconds: float | None = None


def read_progress(fields: Fields) -> Progress:
    """The progress in a state. Earlier versions have no phase and no evaluations.

    Raises:
        WrongValue: a value is wrong.
    """
    phase = fields.text("phase", "training")
    if phase not in PHASES:
        raise fields.wrong("phase", f"one of {', '.join(PHASES)}")
    return Progress(
        step=fields.integer("step"),
        steps=fields.integer("steps"),
        tokens=fields.integer("tokens"),
        loss=fields.number_or_none("loss"),
        tokens_per_second=fields.number_or_none("tokens_per_second"),
        phase=phase,
        evaluation=None if fields.any("evaluation") is None else _evaluation(fields.fields("evaluation")),
        evaluations=fields.integer("evaluations", 0),
        seconds_after_steps=fields.finite("seconds_after_steps", 0.0),
        evaluation_seconds=fields.finite_or_none("evaluation_seconds"),
    )


def read_seconds(fields: Fields, key: str) -> Mapping[str, float]:
    """Phase → seconds; empty in files of earlier versions. Evaluations have a part each, `evaluations/NAME`."""
    return {name: value for name, value in fields.numbers(key).items() if value >= 0}


def of_phase(seconds: Mapping[str, float], phase: str) -> float | None:
    """The seconds of a phase with its parts; None if it has none."""
    values = [value for name, value in seconds.items() if name == phase or name.startswith(f"{phase}/")]
    return sum(values) if values else None


def _evaluation(fields: Fields) -> EvaluationProgress:
    return EvaluationProgress(
        name=fields.text("name"),
        number=fields.integer("number"),
        total=fields.integer("total"),
        done=fields.finite_or_none("done"),
    )

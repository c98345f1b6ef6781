"""What an evaluator needs of a run and of the machine, and the names of evaluations and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from lab.data.corpora.base import Corpus
from lab.records import check_name
from lab.training.options import TRAINING_METRICS

UNKNOWN_METRIC = "*"
"""Among the metrics of an evaluator: there are others, whose names aren't known before it has run."""


@dataclass(frozen=True, kw_only=True)
class EvaluatorNeeds:
    """What an evaluator needs of a run and of the machine, beside the model.

    Attributes:
        positions: option → tokens that the model reads at once. A model with learned positions must have as many.
        held_out: option → tokens of the run's held-out text, without the one after them that is predicted.
        corpora: option → corpus that it reads beside the run's own text.
        files: (option, file) for each file that it reads.
        modules: Python module → the extra of the lab that installs it.
    """

    positions: Mapping[str, int] = field(default_factory=dict)
    held_out: Mapping[str, int] = field(default_factory=dict)
    corpora: Mapping[str, Corpus] = field(default_factory=dict)
    files: tuple[tuple[str, Path], ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing_modules(self) -> list[str]:
        """Modules that this machine lacks. The machine of the run may have them."""
        return [module for module in self.modules if find_spec(module) is None]


def refusal_of_evaluation_name(name: str) -> str | None:
    """Why an evaluation can't have this name, which is the first part of its metrics; None if it can."""
    try:
        check_name(name)
    except ValueError as error:
        return str(error)
    return f"metrics called {name}/… are training's; choose another name" if name in TRAINING_METRICS else None

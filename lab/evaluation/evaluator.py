"""What an evaluator is: a component that measures a trained model, chosen by name in `lab eval RUN EVALUATOR`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from components.registry import Component
from lab.data.options import Data
from lab.data.shards import TokenShards, prepare
from lab.evaluation.load import LoadedRun, refuse_other_text


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        loaded: the run's model, tokenizer and configuration.
        data: the text to evaluate on, as options; its tokenizer is the run's.
    """

    loaded: LoadedRun
    data: Data

    @cached_property
    def text(self) -> TokenShards:
        """The text as tokens; only an evaluator that asks for it has it prepared.

        Raises:
            RequestError: there is none, or the run's own has changed since it was trained.
        """
        text, own = prepare(self.data), self.loaded.experiment.data
        if self.data.corpus == own.corpus:
            refuse_other_text(self.loaded.run, (text if self.data == own else prepare(own)).digest)
        return text


class Evaluator(Component, kind="evaluator"):
    """What is measured of a trained model."""

    def evaluate(self, subject: Subject) -> dict[str, float]:
        """Metric → value; the same at every call.

        Raises:
            RequestError: the subject cannot be evaluated so.
        """
        raise NotImplementedError

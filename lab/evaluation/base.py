"""The base class of evaluators: components that measure a trained model, with `lab eval` or at the end of training.

`lab.evaluation.evaluators` has the evaluators of the lab, which are imported only when needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lab.data.options import Data
from lab.data.shards import TokenShards, prepare, prepare_evaluation
from lab.records import EvaluationCurve, RunFolder
from lab.refusals import RequestError
from lab.training.experiment import EvaluatorOptions, Experiment

if TYPE_CHECKING:
    import torch

    from components.decoder import Decoder
    from lab.data.tokenizers.encoder import Encoder


@dataclass(frozen=True)
class LoadedRun:
    """A run with its model in memory.

    Attributes:
        run: the run's folder.
        experiment: the configuration in the run's config.yaml.
        model: in evaluation mode, fp32, on `device`, without gradients.
        encoder: the encoder of the run's tokenizer.
        checkpoint: the file with the weights.
        step: optimizer steps behind the weights.
        device: the device that the model is on.
    """

    run: RunFolder
    experiment: Experiment
    model: Decoder
    encoder: Encoder
    checkpoint: Path
    step: int
    device: torch.device


@dataclass(frozen=True)
class Subject:
    """The model and the text of an evaluation.

    Attributes:
        loaded: the run's model, tokenizer and configuration.
        data: options of the text to evaluate on. Its tokenizer is the run's.
    """

    loaded: LoadedRun
    data: Data

    @cached_property
    def text(self) -> TokenShards:
        """The text as tokens, prepared at the first access.

        Raises:
            RequestError: there is no text, or the run's own text has changed since training.
        """
        own = self.loaded.experiment.data
        if self.data.corpus != own.corpus:
            return prepare_evaluation(self.data)
        text = prepare(self.data)
        refuse_changed_text(self.loaded.run, (text if self.data == own else prepare(own)).digest)
        return text

    @property
    def separator(self) -> int | None:
        """The id that ends a document, if the run masks documents; otherwise None."""
        return self.text.separator if self.loaded.experiment.train.mask_documents else None


def refuse_changed_text(run: RunFolder, digest: str) -> None:
    """Check that the run's text is still the text that it was trained on.

    If it has changed, the validation split may contain training text, and a trained tokenizer may differ.

    Raises:
        RequestError: the digests differ; the message has both.
    """
    training_digest = run.record.provenance.data
    if training_digest is not None and training_digest != digest:
        raise RequestError(
            f"{run.name}: its text has changed since it was trained: the digest was {training_digest[:12]}…, here "
            f"it is {digest[:12]}…; name another corpus, such as data/corpus=files"
        )


@dataclass(frozen=True)
class EvaluationOutput:
    """The output of an evaluator.

    Attributes:
        metrics: name → number. The end of a name, such as `loss` or `accuracy`, decides which direction is better.
        curves: name → curve.
        images: name → PNG.
        details: name → any further JSON-able value.
    """

    metrics: dict[str, float]
    curves: Mapping[str, EvaluationCurve] = field(default_factory=dict)
    images: Mapping[str, bytes] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """Runs the parts of an evaluation, and shows progress."""

    def compute_part(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return the result of `compute`, or the stored result if an interrupted evaluation has computed this part.

        Args:
            key: the name of the part, unique in the evaluation.
            compute: returns a JSON-able value.

        Raises:
            Stopped: a stop was requested.
        """

    def progress(self, done: int, total: int, what: str = "") -> None:
        """Report that `done` of `total` units of work are finished; `what` describes the current one."""


class Evaluator(EvaluatorOptions):
    """Measures a trained model."""

    def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
        """Measure the subject. The result is the same at every call, interrupted or not.

        Raises:
            RequestError: the subject can't be evaluated with these options.
        """
        raise NotImplementedError

    def comparison_images(self, runs: Sequence[tuple[str, EvaluationOutput]]) -> Mapping[str, bytes]:
        """PNG images that compare several runs, by name.

        If there are none, the lab draws the curves with one line per run, or the metrics if there are no curves.

        Args:
            runs: the name and the output of each run.
        """
        return {}

"""What an evaluator is: a component that measures a trained model, by `lab eval` or at the end of its training.

The evaluators themselves are in `lab.evaluation`, and are loaded when somebody asks for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from components.registry import OptionError
from lab.data.options import Data
from lab.data.shards import TokenShards, prepare
from lab.records import EvaluationCurve, RunFolder
from lab.refusals import RequestError
from lab.training.experiment import EvaluatorOptions, Experiment

if TYPE_CHECKING:
    import torch

    from components.decoder import Decoder
    from lab.data.tokenizers.encoder import Encoder


@dataclass(frozen=True)
class LoadedRun:
    """A run ready to be used.

    Attributes:
        model: in evaluation mode, fp32, on `device`, without gradients.
        encoder: text to ids and back, as the run was trained.
        experiment: what the run's config.yaml says.
        checkpoint: the file that the weights are from.
        step: optimizer steps that the weights have seen.
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

    @property
    def separator(self) -> int | None:
        """The id that ends a document, where the run was trained not to look across it."""
        return self.text.separator if self.loaded.experiment.train.mask_documents else None


def refuse_other_text(run: RunFolder, digest: str) -> None:
    """Refuse if the run's data are not what it was trained on: held-out text would not be, nor a learnt tokenizer.

    Raises:
        RequestError: naming both digests.
    """
    trained = run.record.provenance.data
    if trained is not None and trained != digest:
        raise RequestError(
            f"{run.name}: its text has changed since it was trained: the digest was {trained[:12]}…, here it is "
            f"{digest[:12]}…; name another corpus, such as data/corpus=files"
        )


def refuse_beyond_positions(experiment: Experiment, option: str, tokens: int) -> None:
    """Refuse a text of `tokens` tokens if the model has fewer learned positions.

    Raises:
        OptionError: at that option.
    """
    limit = experiment.model.max_context
    if limit is not None and limit < tokens:
        raise OptionError(option, f"{tokens:,} tokens are beyond the model's {limit:,} positions")


@dataclass(frozen=True)
class Findings:
    """What an evaluator found.

    Attributes:
        metrics: name → number. An ending such as `loss` or `accuracy` says which direction is better.
        curves: by name.
        images: name → PNG.
        details: whatever else is worth keeping, as JSON.
    """

    metrics: dict[str, float]
    curves: Mapping[str, EvaluationCurve] = field(default_factory=dict)
    images: Mapping[str, bytes] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """One evaluation under way."""

    def cell(self, key: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, as JSON, or gave in an evaluation of the same that was interrupted.

        Args:
            key: names this part of the work; another part has another.
        Raises:
            Stopped: somebody asked for it.
        """

    def progress(self, done: int, total: int, what: str = "") -> None:
        """Tell how far the work is."""


class Evaluator(EvaluatorOptions):
    """What is measured of a trained model."""

    def evaluate(self, subject: Subject, session: Session) -> Findings:
        """Measure; the same at every call, in whichever parts it was done.

        Raises:
            RequestError: the subject cannot be evaluated so.
        """
        raise NotImplementedError

    def together(self, found: Sequence[tuple[str, Findings]]) -> Mapping[str, bytes]:
        """PNG images, by name, that show several runs side by side: each run's name with what was found of it.

        Without any the lab draws the curves, a line a run, or the metrics of an evaluator that has no curves.
        """
        return {}

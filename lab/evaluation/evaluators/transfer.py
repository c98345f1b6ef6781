"""Loss on other corpora than the training text, compared to held-out text of the run's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any

from components.registry import OptionError, register
from lab.data.corpora.base import Corpus
from lab.data.corpora.stdlib import Stdlib
from lab.data.shards import TokenShards, prepare, prepare_evaluation
from lab.evaluation.base import EvaluationOutput, Evaluator, Session, Subject
from lab.records import check_name
from lab.refusals import RequestError
from lab.training.evaluator_needs import EvaluatorNeeds
from lab.training.experiment import Experiment

if TYPE_CHECKING:
    from lab.data.batches import ValidationBatches


def _default_corpora() -> dict[str, Corpus]:
    return {"code": Stdlib(parts=("code",)), "prose": Stdlib(parts=("prose",))}


@register("transfer")
class Transfer(Evaluator):
    """Loss on other corpora and on held-out text of the run's own, at the same context.

    For each corpus: <name>/loss in nats per token; <name>/bits_per_byte, which is comparable across texts; and
    <name>/excess_bits_per_byte, the difference from the run's own text, `own/…`. Only the validation split of each
    corpus is used, with the fraction of the run: if a corpus was part of the training text, these documents are unseen.
    A corpus that names its validation text is measured on that text, and a corpus of one document on all of it.

    Attributes:
        corpora: name → corpus, such as {french: {name: files, paths: [proust.txt]}}; by default the code and the manual
            of Python's standard library, which every machine has.
        tokens: number of predicted tokens per corpus, rounded up to whole windows; None for the number in the run's
            validation.
        context: length of a window in tokens; None for the run's training context.
        fraction: the share of each corpus's documents in its validation split; None for the run's. A larger share may
            include training text, if a corpus was part of it.
        batch: windows per forward pass; None for the number of sequences in a forward pass of training.
    """

    reads_text = True

    corpora: Mapping[str, Corpus] = field(default_factory=_default_corpora)
    tokens: int | None = None
    context: int | None = None
    fraction: float | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if not self.corpora:
            raise OptionError("corpora", "must name at least one corpus")
        for name in self.corpora:
            try:
                check_name(name)
            except ValueError as error:
                raise OptionError("corpora", str(error)) from None
            if name == "own":
                raise OptionError("corpora", "'own' is the run's own text; choose another name")
        self.need_at_least(1, "tokens", "context", "batch")
        if self.fraction is not None and not 0 < self.fraction <= 0.5:
            raise OptionError("fraction", f"must lie in (0, 0.5], got {self.fraction:g}")

    def check(self, experiment: Experiment) -> None:
        own = experiment.data
        for name, corpus in self.corpora.items():
            if self.fraction is not None and corpus == own.corpus and self.fraction > own.validation_fraction:
                raise OptionError(
                    "fraction",
                    f"{self.fraction:g} of corpus '{name}' would hold text that the run is trained on: it holds out "
                    f"{own.validation_fraction:g}",
                )

    def needs(self, experiment: Experiment) -> EvaluatorNeeds:
        context = {"context": self.context or experiment.train.context}
        return EvaluatorNeeds(
            positions=context,
            held_out=context,
            corpora={f"corpora.{name}": corpus for name, corpus in self.corpora.items()},
        )

    def metric_names(self, experiment: Experiment) -> tuple[str, ...]:
        per_text = [
            f"{name}/{metric}" for name in ("own", *self.corpora) for metric in ("loss", "bits_per_byte", "tokens")
        ]
        return (*per_text, *(f"{name}/excess_bits_per_byte" for name in self.corpora))

    def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
        # Prepare every text before measuring any, so that errors come first.
        texts = {"own": subject.text} | {name: self._text(subject, name) for name in self.corpora}
        windows = {name: self._windows(subject, name, text) for name, text in texts.items()}
        metrics: dict[str, float] = {}
        for done, (name, text) in enumerate(texts.items()):
            session.progress(done, len(texts), name)
            values = session.compute_part(name, lambda: self._measure(subject, text, windows[name]))  # noqa: B023
            metrics |= {f"{name}/{metric}": value for metric, value in values.items()}
        session.progress(len(texts), len(texts))
        for name in self.corpora:
            excess = metrics[f"{name}/bits_per_byte"] - metrics["own/bits_per_byte"]
            metrics[f"{name}/excess_bits_per_byte"] = excess
        return EvaluationOutput(metrics, details={"digests": {name: text.digest for name, text in texts.items()}})

    def _text(self, subject: Subject, name: str) -> TokenShards:
        from lab.evaluation.measure.text import corpus_data

        corpus = self.corpora[name]
        fraction = self.fraction or subject.data.validation_fraction
        own = subject.loaded.experiment.data
        if corpus == own.corpus and fraction > own.validation_fraction:
            raise RequestError(
                f"fraction: {fraction:g} of corpus '{name}' would hold text that the run was trained on: it held out "
                f"{own.validation_fraction:g}"
            )
        try:
            data = corpus_data(subject.loaded, corpus, fraction)
            return prepare(data) if corpus == own.corpus else prepare_evaluation(data)
        except RequestError as error:
            raise RequestError(f"corpora.{name}: {error}") from None

    def _windows(self, subject: Subject, name: str, text: TokenShards) -> ValidationBatches:
        from lab.data.batches import validation_batches

        experiment = subject.loaded.experiment
        context = self.context or experiment.train.context
        batch = self.batch or experiment.train.sequences_per_forward
        try:
            tokens = self.tokens or experiment.validation.tokens
            return validation_batches(text.validation, context, batch, tokens, bos=text.bos)
        except ValueError as error:
            raise RequestError(f"{name}: {error}") from None

    def _measure(self, subject: Subject, text: TokenShards, windows: ValidationBatches) -> dict[str, Any]:
        from lab.training.data.validation import bits_per_byte, validation_loss

        loaded = subject.loaded
        loss = validation_loss(loaded.model, windows, loaded.device, subject.separator, bos=text.bos)
        bits = bits_per_byte(loss, text.validation_targets, text.validation_bytes)
        return {"loss": loss, "bits_per_byte": bits, "tokens": windows.n_tokens}

"""How well a model predicts texts of other kinds than it was trained on, beside held-out text of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any

from components.registry import OptionError, register
from lab.data.corpora.base import Corpus
from lab.data.corpora.stdlib import Stdlib
from lab.data.shards import TokenShards, prepare
from lab.evaluation.base import Evaluator, Findings, Session, Subject, refuse_beyond_positions
from lab.records import check_name
from lab.refusals import RequestError
from lab.training.experiment import Experiment

if TYPE_CHECKING:
    from lab.data.batches import ValidationBatches


def _parts() -> dict[str, Corpus]:
    return {"code": Stdlib(parts=("code",)), "prose": Stdlib(parts=("prose",))}


@register("transfer")
class Transfer(Evaluator):
    """Loss on other corpora, beside that on held-out text of the run's own, at the same context.

    For each corpus <name>/loss in nats a token, <name>/bits_per_byte, which compares across texts, and
    <name>/excess_bits_per_byte: how much more than on the run's own, `own/…`. The documents that are held out of each
    corpus by the run's split are measured: those are the ones that it has not seen if the corpus was part of its text.

    Attributes:
        corpora: by name, such as {french: {name: files, paths: [proust.txt]}}; by default the standard library's code
            and its manual's prose, which every machine has.
        tokens: predicted of each, rounded up to whole windows; None for as many as the run's validation had.
        context: length of a window; None for that of the run's training.
        fraction: share of each corpus's documents that is held out; None for the run's own. More than that may have
            been trained on, where a corpus was part of the run's text.
        batch: windows at once; None for as many sequences as training had in a forward pass.
    """

    reads_text = True

    corpora: Mapping[str, Corpus] = field(default_factory=_parts)
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
        refuse_beyond_positions(experiment, "context", self.context or experiment.train.context)

    def evaluate(self, subject: Subject, session: Session) -> Findings:
        # Every text before any is measured: one that can't be is refused at once.
        texts = {"own": subject.text} | {name: self._text(subject, name) for name in self.corpora}
        windows = {name: self._windows(subject, name, text) for name, text in texts.items()}
        metrics: dict[str, float] = {}
        for done, (name, text) in enumerate(texts.items()):
            session.progress(done, len(texts), name)
            found = session.cell(name, lambda: self._measure(subject, text, windows[name]))  # noqa: B023
            metrics |= {f"{name}/{metric}": value for metric, value in found.items()}
        session.progress(len(texts), len(texts))
        for name in self.corpora:
            excess = metrics[f"{name}/bits_per_byte"] - metrics["own/bits_per_byte"]
            metrics[f"{name}/excess_bits_per_byte"] = excess
        return Findings(metrics, details={"digests": {name: text.digest for name, text in texts.items()}})

    def _text(self, subject: Subject, name: str) -> TokenShards:
        from lab.evaluation.measure.text import of_corpus

        corpus = self.corpora[name]
        fraction = self.fraction or subject.data.validation_fraction
        own = subject.loaded.experiment.data
        if corpus == own.corpus and fraction > own.validation_fraction:
            raise RequestError(
                f"fraction: {fraction:g} of corpus '{name}' would hold text that the run was trained on: it held out "
                f"{own.validation_fraction:g}"
            )
        try:
            return prepare(of_corpus(subject.loaded, corpus, fraction))
        except RequestError as error:
            raise RequestError(f"corpora.{name}: {error}") from None

    def _windows(self, subject: Subject, name: str, text: TokenShards) -> ValidationBatches:
        from lab.data.batches import validation_batches

        experiment = subject.loaded.experiment
        context = self.context or experiment.train.context
        batch = self.batch or experiment.train.sequences_per_forward
        try:
            return validation_batches(text.validation, context, batch, self.tokens or experiment.validation.tokens)
        except ValueError as error:
            raise RequestError(f"{name}: {error}") from None

    def _measure(self, subject: Subject, text: TokenShards, windows: ValidationBatches) -> dict[str, Any]:
        from lab.training.data.validation import bits_per_byte, validation_loss

        loss = validation_loss(subject.loaded.model, windows, subject.loaded.device, subject.separator)
        bits = bits_per_byte(loss, len(text.validation), text.validation_bytes)
        return {"loss": loss, "bits_per_byte": bits, "tokens": windows.n_tokens}

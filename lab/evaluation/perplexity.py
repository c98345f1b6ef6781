"""How well a model predicts held-out text: its loss, as nats a token, as perplexity, and as bits a byte."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from components.registry import OptionError, register
from lab.data.batches import validation_batches
from lab.errors import RequestError
from lab.training.evaluator import Evaluator, Findings, Session, Subject, refuse_beyond_positions

if TYPE_CHECKING:
    from lab.training.experiment import Experiment


@register("perplexity")
class Perplexity(Evaluator):
    """Loss on held-out text in nats a token, perplexity, and bits a byte, which compare across tokenizers.

    With no options it measures what training measured at its end, on the same windows. Windows don't overlap: the first
    token of each is predicted from nothing before it, so a longer context gives a lower loss.

    Attributes:
        tokens: how many are predicted, rounded up to whole windows; None for as many as the run's validation had.
        context: length of a window; None for that of the run's training.
        batch: windows at once; None for as many sequences as training had in a forward pass.
    """

    tokens: int | None = None
    context: int | None = None
    batch: int | None = None

    reads_text = True

    def __post_init__(self) -> None:
        for option in ("tokens", "context", "batch"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise OptionError(option, f"must be at least 1, got {value}")

    def check(self, experiment: Experiment) -> None:
        refuse_beyond_positions(experiment, "context", self.context or experiment.train.context)

    def evaluate(self, subject: Subject, session: Session) -> Findings:
        # Here, as it loads Lightning, which listing and completion can do without.
        from lab.training.validation import bits_per_byte, validation_loss

        loaded, train, text = subject.loaded, subject.loaded.experiment.train, subject.text
        context = self.context or train.context
        tokens = self.tokens or loaded.experiment.validation.tokens
        try:
            windows = validation_batches(text.validation, context, self.batch or train.sequences_per_forward, tokens)
        except ValueError as error:
            raise RequestError(str(error)) from None
        loss = validation_loss(loaded.model, windows, loaded.device, subject.separator)
        return Findings(
            {
                "loss": loss,
                "perplexity": math.exp(loss) if loss < 700 else math.inf,
                "bits_per_byte": bits_per_byte(loss, len(text.validation), text.validation_bytes),
                "tokens": windows.n_tokens,
            }
        )

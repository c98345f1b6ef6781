"""Loss on held-out text: in nats per token, as perplexity, and in bits per byte."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from components.registry import register
from lab.evaluation.base import EvaluationOutput, Session, Subject
from lab.evaluation.measure.heldout import HeldOut, measure

if TYPE_CHECKING:
    from lab.training.experiment import Experiment


@register("perplexity")
class Perplexity(HeldOut):
    """Loss on held-out text in nats per token, perplexity, bits per byte (comparable across tokenizers), and a curve.

    Without options it repeats the validation at the end of training, on the same windows. Windows don't overlap: the
    first prediction of each window sees one token only, so a longer context gives a lower loss. The curve is the loss
    by position in the window. Its positions have different target tokens; the evaluator `context` uses the same ones.

    Attributes:
        tokens: number of predicted tokens, rounded up to whole windows; None for the number in the run's validation.
        context: length of a window in tokens; None for the run's training context.
        batch: windows per forward pass; None for the number of sequences in a forward pass of training.
    """

    def metric_names(self, experiment: Experiment) -> tuple[str, ...]:
        return ("loss", "perplexity", "bits_per_byte", "tokens")

    def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
        from lab.training.data.validation import bits_per_byte  # imported here because it loads Lightning

        text, batches = subject.text, self.batches(subject)
        losses = measure(subject.loaded.model, batches, subject, session)
        return EvaluationOutput(
            {
                "loss": losses.mean,
                "perplexity": math.exp(losses.mean) if losses.mean < 700 else math.inf,
                "bits_per_byte": bits_per_byte(losses.mean, text.validation_targets, text.validation_bytes),
                "tokens": batches.n_tokens,
            },
            curves={"loss_by_position": losses.by_position},
        )

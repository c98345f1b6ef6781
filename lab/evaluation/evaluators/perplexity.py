"""How well a model predicts held-out text: its loss, as nats a token, as perplexity, and as bits a byte."""

from __future__ import annotations

import math

from components.registry import register
from lab.evaluation.base import Findings, Session, Subject
from lab.evaluation.measure.heldout import HeldOut, measure


@register("perplexity")
class Perplexity(HeldOut):
    """Loss on held-out text in nats a token, perplexity, bits a byte, which compare across tokenizers, and a curve.

    With no options it measures what training measured at its end, on the same windows. Windows don't overlap: the first
    token of each is predicted from one token alone, so a longer context gives a lower loss. The curve shows that: the
    loss by position in the window. Positions hold different tokens there; evaluator `context` scores the same ones.

    Attributes:
        tokens: how many are predicted, rounded up to whole windows; None for as many as the run's validation had.
        context: length of a window; None for that of the run's training.
        batch: windows at once; None for as many sequences as training had in a forward pass.
    """

    def evaluate(self, subject: Subject, session: Session) -> Findings:
        from lab.training.data.validation import bits_per_byte  # here, as it loads Lightning

        text, batches = subject.text, self.batches(subject)
        found = measure(subject.loaded.model, batches, subject, session)
        return Findings(
            {
                "loss": found.mean,
                "perplexity": math.exp(found.mean) if found.mean < 700 else math.inf,
                "bits_per_byte": bits_per_byte(found.mean, len(text.validation), text.validation_bytes),
                "tokens": batches.n_tokens,
            },
            curves={"loss_by_position": found.by_position},
        )

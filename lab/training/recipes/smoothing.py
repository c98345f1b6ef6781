"""Next-token prediction with smoothed labels as a Lightning module."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from components.language_model import LanguageModel
from components.loss import in_fp32, token_losses
from lab.training.module import Losses, NextToken


class LabelSmoothingModule(NextToken):
    """Minimises (1 - ε) · cross-entropy + ε · the mean of -log q over the vocabulary.

    The loss of a step is the cross-entropy against the text; the minimised value is recorded as `objective`.
    """

    from_logits = True

    def __init__(self, model: LanguageModel, *, epsilon: float, **options: Any) -> None:
        super().__init__(model, **options)
        self._epsilon = epsilon

    def _losses(self, tokens: Tensor, targets: Tensor, logits: Tensor) -> Losses:
        hard = token_losses(logits, targets).mean()
        logits_fp32 = in_fp32(logits)
        uniform = (logits_fp32.logsumexp(-1) - logits_fp32.mean(-1)).mean()
        objective = (1 - self._epsilon) * hard + self._epsilon * uniform
        return Losses(hard, objective, terms={"objective": objective.detach()})

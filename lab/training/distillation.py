"""A student as a Lightning module: next-token prediction with a teacher's distribution in place of the text's tokens.

The teacher is no part of the module: it is in no checkpoint, no optimizer and no count of parameters.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.loss import in_fp32, token_losses
from lab.training.module import Losses, NextToken
from lab.training.teacher import Teacher


def soft_losses(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a student against its teacher's distribution, and how much of it is the student's fault.

    With p = softmax(teacher_logits / temperature) and q = softmax(logits / temperature), for each token
    H(p, q) = -Σ p log q, and KL(p ‖ q) = H(p, q) - H(p), which has the same gradient and is 0 where q is p.

    Args:
        logits, teacher_logits: [B, T, V]
    Returns:
        H(p, q) and KL(p ‖ q), each [B·T] in fp32 (fp64 for fp64 logits), nats; no factor for the temperature.
    """
    student, teacher = (in_fp32(each).flatten(0, 1) / temperature for each in (logits, teacher_logits))
    p = teacher.softmax(dim=-1)
    cross_entropy = F.cross_entropy(student, p, reduction="none")
    return cross_entropy, cross_entropy - torch.special.entr(p).sum(dim=-1)


class Distilled(NextToken):
    """Trains a model as `NextToken` does, on (1 - w) · T² · H(p, q) + w · cross-entropy.

    p and q are the teacher's and the student's distributions at temperature T, and w is the weight of the hard labels.
    The loss of a step stays the cross-entropy against the text, as in every recipe. Beside it stand, means over the
    tokens in nats: `soft_loss`, H(p, q); `kl`, KL(p ‖ q); and `objective`, what is minimised.

    The teacher sees the tokens and document ids that the student sees, under the same autocast.
    """

    from_logits = True

    def __init__(
        self, model: nn.Module, *, teacher: Teacher, temperature: float, hard_label_weight: float, **options: Any
    ) -> None:
        super().__init__(model, **options)
        # In a tuple, or torch would make it a submodule.
        self._teacher = (teacher,)
        self._temperature = temperature
        self._hard_label_weight = hard_label_weight

    def on_train_start(self) -> None:
        self._teacher[0].model.to(self.device)

    def facts(self) -> dict[str, Any]:
        return {"teacher": self._teacher[0].facts()}

    def _losses(self, tokens: Tensor, targets: Tensor, logits: Tensor) -> Losses:
        with torch.no_grad():
            teacher_logits = self._teacher[0].model(*self._inputs(tokens))
        soft, kl = (each.mean() for each in soft_losses(logits, teacher_logits, self._temperature))
        hard = token_losses(logits if self._hard_label_weight else logits.detach(), targets).mean()
        objective = (1 - self._hard_label_weight) * self._temperature**2 * soft
        if self._hard_label_weight:
            objective = objective + self._hard_label_weight * hard
        terms = {"soft_loss": soft, "kl": kl, "objective": objective}
        return Losses(hard, objective, terms={name: term.detach() for name, term in terms.items()})

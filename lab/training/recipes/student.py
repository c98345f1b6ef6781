"""A student as a Lightning module: next-token prediction with a teacher's distribution in place of the text's tokens.

The teacher is no part of the module: it is in no checkpoint, no optimizer and no count of parameters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.language_model import LanguageModel
from components.loss import in_fp32, token_losses
from lab.training.module import Losses, NextToken
from lab.training.parallel.world import Pass
from lab.training.recipes.targets import Few, TargetSelection
from lab.training.recipes.teacher import Teacher
from lab.training.recipes.teacher_cache import TeacherCache


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
    With a selection H(p, q) is what `lab.training.recipes.targets` makes of few of the teacher's tokens.

    The loss of a step stays the cross-entropy against the text, as in every recipe. Beside it stand, means over the
    tokens in nats: `soft_loss`, H(p, q); `kl`, KL(p ‖ q); and `objective`, what is minimised.

    The teacher sees the tokens and document ids that the student sees, under the same autocast. With a cache it sees
    those only that nobody has shown it before, a process's part of a step at a time, pass by pass as without one.
    """

    from_logits = True

    def __init__(
        self,
        model: LanguageModel,
        *,
        teacher: Teacher,
        temperature: float,
        hard_label_weight: float,
        selection: TargetSelection | None = None,
        cache: Path | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            selection: the few tokens to learn from; None for the whole distribution.
            cache: the lab's cache, in which the teacher's outputs are kept; None to keep none.
        """
        super().__init__(model, **options)
        # In a tuple, or torch would make it a submodule.
        self._teacher = (teacher,)
        self._temperature = temperature
        self._hard_label_weight = hard_label_weight
        self._selection = selection
        self._cache = cache
        self._kept: TeacherCache | None = None
        self._given: Few | None = None
        self._first = 0

    def on_train_start(self) -> None:
        if self._cache is None:
            self._teacher[0].model.to(self.device)
        else:
            self._kept = self._open(self._cache)

    def facts(self) -> dict[str, object]:
        found = self._teacher[0].facts()
        if self._selection is not None:
            found |= {"targets": self._selection.targets, "k": self._selection.k}
        if self._kept is not None:
            found["cache"] = self._kept.facts()
        return {"teacher": found}

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> dict[str, Any]:
        if self._kept is not None:
            passes = [each for each in self._group.world.passes(self._train) if each.counts]
            begin, inputs = passes[0].first, batch[0]

            def say() -> Few:
                self._teacher[0].model.to(self.device)
                parts = (inputs[each.first - begin : each.first - begin + each.size] for each in passes)
                return Few.joined([self._select(part, each.first) for part, each in zip(parts, passes, strict=True)])

            self._given = self._kept.at(self.trainer.global_step, begin, inputs, say)
        return super().training_step(batch, batch_idx)

    def _seed_pass(self, each: Pass) -> None:
        super()._seed_pass(each)
        self._first = each.first

    def _losses(self, tokens: Tensor, targets: Tensor, logits: Tensor) -> Losses:
        soft, kl = (each.mean() for each in self._soft_losses(tokens, logits))
        hard = token_losses(logits if self._hard_label_weight else logits.detach(), targets).mean()
        objective = (1 - self._hard_label_weight) * self._temperature**2 * soft
        if self._hard_label_weight:
            objective = objective + self._hard_label_weight * hard
        terms = {"soft_loss": soft, "kl": kl, "objective": objective}
        return Losses(hard, objective, terms={name: term.detach() for name, term in terms.items()})

    def _soft_losses(self, tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self._selection is None:
            return soft_losses(logits, self._teacher_logits(tokens), self._temperature)
        if self._given is None:
            few = self._select(tokens, self._first)
        else:
            few = self._given.part(self._first - self._group.world.part(self._train).start, len(tokens))
        return self._selection.losses(logits, few)

    def _select(self, tokens: Tensor, first: int) -> Few:
        """What the teacher says of tokens [B, T]; `first` is the first row's place in the global batch."""
        assert self._selection is not None
        return self._selection.of(self._teacher_logits(tokens), self._seed, self.trainer.global_step, first)

    def _teacher_logits(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self._teacher[0].model(*self._inputs(tokens))
        return found

    def _open(self, cache: Path) -> TeacherCache:
        """The kept outputs that are the ones this run's teacher would give here."""
        assert self._selection is not None, "whole distributions are not kept"
        world, train, selection = self._group.world, self._train, self._selection
        made_by = {
            "teacher": self._teacher[0].identity,
            "targets": selection.targets,
            "k": selection.k,
            # What follows changes which tokens are drawn, or how sums are rounded.
            **({"temperature": selection.temperature, "seed": self._seed} if selection.random else {}),
            "separator": self._separator,
            "precision": train.precision,
            "device": self.device.type,
            "sequences_per_forward": world.sequences_per_forward(train),
        }
        kept = TeacherCache(
            cache,
            made_by,
            selection,
            self._teacher[0].vocab_size,
            tokens_per_step=train.tokens_per_step,
            steps=train.steps,
        )
        if world.first:
            kept.announce()
        return kept

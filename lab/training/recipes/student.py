"""Distillation as a Lightning module: the student learns the teacher's distribution over each next token.

The teacher isn't a submodule, so checkpoints, optimizer and parameter counts don't include it.
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
from lab.training.parallel.world import MicroBatch
from lab.training.recipes.targets import TargetSelection, TeacherTargets
from lab.training.recipes.teacher import Teacher
from lab.training.recipes.teacher_cache import TeacherCache


def soft_losses(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy and KL divergence of a student from its teacher's distribution.

    With p = softmax(teacher_logits / temperature) and q = softmax(logits / temperature), for each token
    H(p, q) = -Σ p log q, and KL(p ‖ q) = H(p, q) - H(p), which has the same gradient and is 0 if q = p.

    Args:
        logits, teacher_logits: [B, T, V].

    Returns:
        H(p, q) and KL(p ‖ q) in nats, each [B·T] in fp32 (fp64 for fp64 logits), without a factor for the temperature.
    """
    student, teacher = (in_fp32(values).flatten(0, 1) / temperature for values in (logits, teacher_logits))
    p = teacher.softmax(dim=-1)
    cross_entropy = F.cross_entropy(student, p, reduction="none")
    return cross_entropy, cross_entropy - torch.special.entr(p).sum(dim=-1)


class DistillationModule(NextToken):
    """Minimises (1 - w) · T² · H(p, q) + w · cross-entropy.

    p and q are the teacher's and the student's distributions at temperature T, and w is the weight of the hard labels.
    With a selection, `lab.training.recipes.targets` computes H(p, q) from a few of the teacher's tokens.

    The loss of a step is the cross-entropy against the text, as in every recipe. Recorded besides, as means over the
    tokens in nats: `soft_loss`, H(p, q); `kl`, KL(p ‖ q); and `objective`, the minimised value.

    The teacher gets the tokens and document ids of the student, with the same autocast. With a cache it runs only on
    steps that aren't cached, in the same micro-batches.
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
            selection: the tokens to learn from; None for the whole distribution.
            cache: folder of the lab's cache, to store the teacher's outputs in; None to store nothing.
        """
        super().__init__(model, **options)
        # In a tuple, so that torch doesn't register it as a submodule.
        self._teacher = (teacher,)
        self._temperature = temperature
        self._hard_label_weight = hard_label_weight
        self._selection = selection
        self._cache_folder = cache
        self._cache: TeacherCache | None = None
        self._step_targets: TeacherTargets | None = None
        self._first = 0

    def on_train_start(self) -> None:
        if self._cache_folder is None:
            self._teacher[0].model.to(self.device)
        else:
            self._cache = self._open_cache(self._cache_folder)

    def facts(self) -> dict[str, object]:
        facts = self._teacher[0].facts()
        if self._selection is not None:
            facts |= {"targets": self._selection.targets, "k": self._selection.k}
        if self._cache is not None:
            facts["cache"] = self._cache.facts()
        return {"teacher": facts}

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> dict[str, Any]:
        if self._cache is not None:
            micro_batches = [part for part in self._group.world.micro_batches(self._train) if part.is_counted]
            begin, inputs = micro_batches[0].first, batch[0]

            def compute() -> TeacherTargets:
                self._teacher[0].model.to(self.device)
                return TeacherTargets.concatenate(
                    [
                        self._select(inputs[part.first - begin : part.first - begin + part.size], part.first)
                        for part in micro_batches
                    ]
                )

            self._step_targets = self._cache.at(self.trainer.global_step, begin, inputs, compute)
        return super().training_step(batch, batch_idx)

    def _seed_micro_batch(self, micro_batch: MicroBatch) -> None:
        super()._seed_micro_batch(micro_batch)
        self._first = micro_batch.first

    def _losses(self, tokens: Tensor, targets: Tensor, logits: Tensor) -> Losses:
        soft, kl = (losses.mean() for losses in self._soft_losses(tokens, logits))
        hard = token_losses(logits if self._hard_label_weight else logits.detach(), targets).mean()
        objective = (1 - self._hard_label_weight) * self._temperature**2 * soft
        if self._hard_label_weight:
            objective = objective + self._hard_label_weight * hard
        terms = {"soft_loss": soft, "kl": kl, "objective": objective}
        return Losses(hard, objective, terms={name: term.detach() for name, term in terms.items()})

    def _soft_losses(self, tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self._selection is None:
            return soft_losses(logits, self._teacher_logits(tokens), self._temperature)
        if self._step_targets is None:
            teacher_targets = self._select(tokens, self._first)
        else:
            start = self._first - self._group.world.part(self._train).start
            teacher_targets = self._step_targets.rows(start, len(tokens))
        return self._selection.losses(logits, teacher_targets)

    def _select(self, tokens: Tensor, first: int) -> TeacherTargets:
        """The teacher's targets for tokens [B, T]; `first` is the index of the first row in the global batch."""
        assert self._selection is not None
        return self._selection.select(self._teacher_logits(tokens), self._seed, self.trainer.global_step, first)

    def _teacher_logits(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._teacher[0].model(*self._inputs(tokens))
        return logits

    def _open_cache(self, folder: Path) -> TeacherCache:
        """Open the cache of the outputs that this run's teacher would have here."""
        assert self._selection is not None, "full distributions are not cached"
        world, train, selection = self._group.world, self._train, self._selection
        origin = {
            "teacher": self._teacher[0].identity,
            "targets": selection.targets,
            "k": selection.k,
            # These change which tokens are drawn, or how sums are rounded.
            **({"temperature": selection.temperature, "seed": self._seed} if selection.is_random else {}),
            "separator": self._separator,
            "precision": train.precision,
            "device": self.device.type,
            "sequences_per_forward": world.sequences_per_forward(train),
        }
        cache = TeacherCache(
            folder,
            origin,
            selection,
            self._teacher[0].vocab_size,
            tokens_per_step=train.tokens_per_step,
            steps=train.steps,
        )
        if world.first:
            cache.print_size()
        return cache

"""The options of distillation. `lab.training.recipes.student` implements it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from components.registry import OptionError, register
from lab.training.recipes.base import REFERS_TO_RUN, Recipe
from lab.training.recipes.target_options import DEFAULT_K, Targets, bytes_per_token
from lab.units import count

if TYPE_CHECKING:
    from lab.data.tokenizers.encoder import Encoder
    from lab.training.module import NextToken
    from lab.training.options import RunConfiguration, Train
    from lab.training.recipes.teacher import Teacher


@register("distillation")
class Distillation(Recipe):
    """A teacher's distribution over each next token: cross-entropy -Σ p_teacher log p_student.

    Gemma 2's small models were trained like this (2408.00118, section 3.2); the paper states no temperature and no
    share of hard labels. The teacher predicts the same tokens and documents as the student, in evaluation mode. Its
    outputs can be cached, for all runs that train on the same batches.

    Attributes:
        teacher: a finished run with the same tokenizer: its path below the root, or its identity.
        temperature: divides the logits of both models. The teacher's term is multiplied by its square, so that the
            temperature doesn't change the size of the gradient (Hinton et al. 2015, 1503.02531, section 2).
        hard_label_weight: the share of the ordinary cross-entropy in the objective.
        targets: the part of the teacher's distribution p to learn from. `full`: all of it. `top_k`: the k most likely
            tokens, with p renormalized over them. `sampled`: k tokens drawn from p with replacement, each with weight
            1/k; the expected loss is that of `full`. `sampled_renormalized`: k distinct tokens drawn from p, with p
            renormalized over them, as described for Gemma 3 (2503.19786, section 2.2); the expected loss is that of
            `full` only if k is 1 or the size of the vocabulary.
        k: number of tokens; None for 256, as in Gemma 3. Must be None for full targets.
        cache: store the teacher's outputs in the lab's cache and read them from there. Not possible with full targets,
            which would be too large. The results are bitwise the same.
    """

    teacher: str = field(metadata=REFERS_TO_RUN)
    temperature: float = 1.0
    hard_label_weight: float = 0.0
    targets: Targets = "full"
    k: int | None = None
    cache: bool = field(default=False, metadata={"affects_result": False})

    def __post_init__(self) -> None:
        if not self.teacher:
            raise OptionError("teacher", f"expected {REFERS_TO_RUN['expected']}")
        if not self.temperature > 0:
            raise OptionError("temperature", f"must be positive, got {self.temperature}")
        if not 0 <= self.hard_label_weight < 1:
            raise OptionError(
                "hard_label_weight",
                f"must lie in [0, 1), got {self.hard_label_weight}; without a teacher's share, recipe=next_token",
            )
        if self.k is not None and self.targets == "full":
            raise OptionError("k", f"{self.k} has no effect on full targets; choose recipe.targets=top_k or sampled")
        if self.k is not None and self.k < 1:
            raise OptionError("k", f"must be at least 1, got {self.k}")

    @property
    def n_targets(self) -> int | None:
        """Number of tokens of the teacher's distribution to learn from; None for all."""
        return None if self.targets == "full" else self.k or DEFAULT_K

    def check(self, experiment: RunConfiguration) -> None:
        vocab_size = experiment.model.vocab_size
        if self.targets in ("top_k", "sampled_renormalized") and (self.n_targets or 0) > vocab_size:
            raise OptionError("k", f"{self.n_targets} different tokens are more than the vocabulary's {vocab_size:,}")
        if self.cache and self.targets == "full":
            size = 4 * vocab_size * _trained_tokens(experiment.train)
            raise OptionError(
                "cache",
                f"full distributions would take {count(size)}B a run, 4 bytes for each of {vocab_size:,} tokens at "
                "every position; keep few of them (recipe.targets=top_k or sampled), or leave recipe.cache=false",
            )

    def check_run(
        self, option: str, needed: RunConfiguration, experiment: RunConfiguration, tokenizer: Path | None
    ) -> None:
        from lab.training.recipes.teacher import refusal

        reason = refusal(needed, experiment, tokenizer)
        if reason is not None:
            raise OptionError(option, reason)

    def flops_per_token(self, option: str, forward: float) -> float:
        """A forward pass of the teacher, also with a cache, because some run has to fill it."""
        return forward

    def flops_in_step(self, option: str, forward: float) -> float:
        return 0.0 if self.cache else forward

    @property
    def work(self) -> str:
        if self.targets == "full":
            return self.name
        return f"{self.name} {self.targets} {self.n_targets}{' cached' if self.cache else ''}"

    def cache_bytes(self, experiment: RunConfiguration) -> int:
        if not self.cache or self.n_targets is None:
            return 0
        size = bytes_per_token(self.targets, self.n_targets, experiment.model.vocab_size)
        return size * _trained_tokens(experiment.train)

    def module(self, teachers: Mapping[str, Teacher], tokenizer: Encoder) -> Callable[..., NextToken]:
        from lab.data.cache import default_cache
        from lab.training.recipes.student import DistillationModule
        from lab.training.recipes.targets import TargetSelection
        from lab.training.recipes.teacher import digest_of

        teacher = teachers.get(self.teacher)
        if teacher is None:
            raise OptionError("recipe.teacher", f"run {self.teacher[:12]}… is needed, and was not loaded")
        if teacher.tokenizer != digest_of(tokenizer):
            raise OptionError(
                "recipe.teacher", f"{teacher.run} was trained on another tokenizer's tokens than this text is in"
            )
        k = self.n_targets
        return functools.partial(
            DistillationModule,
            teacher=teacher,
            temperature=self.temperature,
            hard_label_weight=self.hard_label_weight,
            selection=None if k is None else TargetSelection(self.targets, k, self.temperature),
            cache=default_cache() if self.cache else None,
        )


def _trained_tokens(train: Train) -> int:
    return train.steps * train.tokens_per_step

"""Distillation as options. `lab.training.recipes.student` trains by it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from components.registry import OptionError, register
from lab.training.recipes.base import REFERS_TO_RUN, Recipe
from lab.training.recipes.target_options import K, Targets, bytes_a_token
from lab.units import count

if TYPE_CHECKING:
    from lab.data.tokenizers.encoder import Encoder
    from lab.training.module import NextToken
    from lab.training.options import RunConfiguration, Train
    from lab.training.recipes.teacher import Teacher


@register("distillation")
class Distillation(Recipe):
    """A teacher's distribution over each next token: cross-entropy -Σ p_teacher log p_student.

    As Gemma 2's small models were trained (2408.00118, section 3.2), where no temperature and no share of hard labels
    is stated. The teacher runs along with the student, in evaluation mode, on the same tokens and documents; or its
    outputs are kept, and runs that train on the same batches read them.

    Attributes:
        teacher: the run to learn from, finished and of the same tokenizer: by its path below the root, or its identity.
        temperature: divides both models' logits; the term is then multiplied by its square, so that its gradient keeps
            its size beside the hard labels' (Hinton et al. 2015, 1503.02531, section 2).
        hard_label_weight: share of the ordinary cross-entropy in the objective; the teacher's term has the rest.
        targets: what is learnt of the teacher's distribution p. `full`: all of it. `top_k`: its k likeliest tokens,
            p renormalised over them. `sampled`: k tokens drawn from p with replacement, each with weight 1/k, so that
            the loss's expectation over draws is that of `full`. `sampled_renormalized`: k different tokens drawn with
            p's probabilities, p renormalised over them, as Gemma 3 (2503.19786, section 2.2) describes its own; its
            expectation isn't that of `full` unless k is 1 or the whole vocabulary.
        k: how many tokens; None for 256 as in Gemma 3, where targets aren't full.
        cache: keep the teacher's outputs in the lab's cache, and read them where they are already: not with full
            targets, which would be larger than any text. Results are those of a teacher that runs along, bit for bit.
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
        """How many tokens of the teacher's distribution are learnt from; None for all."""
        return None if self.targets == "full" else self.k or K

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
        """A forward pass of the teacher: with a cache too, which somebody's passes have to fill."""
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
        a_token = bytes_a_token(self.targets, self.n_targets, experiment.model.vocab_size)
        return a_token * _trained_tokens(experiment.train)

    def module(self, trained: Mapping[str, Teacher], tokenizer: Encoder) -> Callable[..., NextToken]:
        from lab.data.cache import default_cache
        from lab.training.recipes.student import Distilled
        from lab.training.recipes.targets import TargetSelection
        from lab.training.recipes.teacher import digest_of

        teacher = trained.get(self.teacher)
        if teacher is None:
            raise OptionError("recipe.teacher", f"run {self.teacher[:12]}… is needed, and was not brought along")
        if teacher.tokenizer != digest_of(tokenizer):
            raise OptionError(
                "recipe.teacher", f"{teacher.run} was trained on another tokenizer's tokens than this text is in"
            )
        k = self.n_targets
        return functools.partial(
            Distilled,
            teacher=teacher,
            temperature=self.temperature,
            hard_label_weight=self.hard_label_weight,
            selection=None if k is None else TargetSelection(self.targets, k, self.temperature),
            cache=default_cache() if self.cache else None,
        )


def _trained_tokens(train: Train) -> int:
    return train.steps * train.tokens_per_step

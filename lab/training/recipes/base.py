"""What a model learns from: the text alone, or another model's predictions of it as well.

An option that refers to a run says so in its field's metadata. Planning puts that run's identity there, and whoever
trains brings the run itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from components.registry import Component, OptionError, register

if TYPE_CHECKING:
    from lab.data.tokenizers.encoder import Encoder
    from lab.training.experiment import Experiment
    from lab.training.module import NextToken
    from lab.training.recipes.teacher import Teacher

REFERS_TO_RUN = {"refers_to_run": True, "expected": "a run, such as sweep/arm/seed-0"}
"""Metadata of a component's text option that names a run, and in a frozen configuration holds its identity."""


Targets = Literal["full", "top_k", "sampled", "sampled_renormalized"]
K = 256
"""Tokens of a teacher's distribution that a student learns from, where it isn't the whole; as Gemma 3 (2503.19786)."""


class Recipe(Component, kind="recipe"):
    """What a model learns from."""

    def check(self, experiment: Experiment) -> None:
        """Refuse what doesn't go with the rest of an experiment.

        Raises:
            OptionError: at the option that doesn't.
        """

    def check_run(self, option: str, needed: Experiment, experiment: Experiment, tokenizer: Path | None) -> None:
        """Refuse a run that an option refers to, as far as configurations tell.

        Args:
            needed: the run's.
            experiment: the one that this recipe is part of.
            tokenizer: folder in which the needed run keeps its tokenizer; None for a run that is still to be made.
        Raises:
            OptionError: at `option`, saying why that run can't be used.
        """

    def flops_per_token(self, option: str, forward: float) -> float:
        """What using the run that an option refers to takes, FLOPs for each token that is trained on.

        Args:
            forward: FLOPs of a forward pass of the needed run's model, a token.
        """
        return 0.0

    def flops_in_step(self, option: str, forward: float) -> float:
        """The part of `flops_per_token` that every step takes, by which its speed is judged."""
        return self.flops_per_token(option, forward)

    @property
    def work(self) -> str:
        """What tells apart recipes whose steps take another time, the runs that they refer to aside."""
        return self.name

    def cache_bytes(self, experiment: Experiment) -> int:
        """Bytes that a run keeps in the cache of what other runs' models say; 0 where it keeps none."""
        return 0

    def module(self, trained: Mapping[str, Teacher], tokenizer: Encoder) -> Callable[..., NextToken]:
        """What makes the Lightning module, called as `lab.training.module.NextToken` is.

        Args:
            trained: identity → run, for every run that an option refers to.
            tokenizer: of the text that is trained on.
        Raises:
            OptionError: a run is missing or can't be used on this text.
        """
        raise NotImplementedError


@register("next_token")
class NextTokenPrediction(Recipe):
    """The text alone: cross-entropy of each token given those before it."""

    def module(self, trained: Mapping[str, Teacher], tokenizer: Encoder) -> Callable[..., NextToken]:
        from lab.training.module import NextToken

        return NextToken


@register("label_smoothing")
class LabelSmoothing(Recipe):
    """The text, each token of it taken as a little of every other: cross-entropy against (1 - ε) · token + ε / V.

    The control for what distillation does by softening targets alone (Szegedy et al. 2015, 1512.00567, section 7): as
    torch's cross_entropy(label_smoothing=ε), over all V logits of the model. The loss of a step stays the plain
    cross-entropy; what is minimised is recorded as `objective`.

    Attributes:
        epsilon: share of the uniform distribution in the targets.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise OptionError("epsilon", f"must lie between 0 and 1, got {self.epsilon}; with none, recipe=next_token")

    def module(self, trained: Mapping[str, Teacher], tokenizer: Encoder) -> Callable[..., NextToken]:
        from lab.training.recipes.smoothing import Smoothed

        return functools.partial(Smoothed, epsilon=self.epsilon)


@register("distillation")
class Distillation(Recipe):
    """A teacher's distribution over each next token: cross-entropy -Σ p_teacher log p_student.

    As Gemma 2's small models were trained (2408.00118, section 3.2), where no temperature and no share of hard labels
    is stated. The teacher runs along with the student, in evaluation mode, on the same tokens and documents; or its
    outputs are kept, and whoever trains on the same batches reads them.

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

    def check(self, experiment: Experiment) -> None:
        vocab_size = experiment.model.vocab_size
        if self.targets in ("top_k", "sampled_renormalized") and (self.n_targets or 0) > vocab_size:
            raise OptionError("k", f"{self.n_targets} different tokens are more than the vocabulary's {vocab_size:,}")
        if self.cache and self.targets == "full":
            from lab.units import count

            size = 4 * vocab_size * _trained_tokens(experiment)
            raise OptionError(
                "cache",
                f"full distributions would take {count(size)}B a run, 4 bytes for each of {vocab_size:,} tokens at "
                "every position; keep few of them (recipe.targets=top_k or sampled), or leave recipe.cache=false",
            )

    def check_run(self, option: str, needed: Experiment, experiment: Experiment, tokenizer: Path | None) -> None:
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

    def cache_bytes(self, experiment: Experiment) -> int:
        if not self.cache or self.n_targets is None:
            return 0
        a_token = bytes_a_token(self.targets, self.n_targets, experiment.model.vocab_size)
        return a_token * _trained_tokens(experiment)

    def module(self, trained: Mapping[str, Teacher], tokenizer: Encoder) -> Callable[..., NextToken]:
        from lab.data.cache import default_cache
        from lab.training.recipes.distillation import Distilled
        from lab.training.recipes.targets import Selection
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
            selection=None if k is None else Selection(self.targets, k, self.temperature),
            cache=default_cache() if self.cache else None,
        )


def bytes_a_token(targets: Targets, k: int, vocab_size: int) -> int:
    """What is kept of a teacher's outputs for a token that is trained on.

    The k tokens' ids, in 2 bytes where they fit; beside them each one's logit in 4, or where tokens are drawn by their
    probabilities alone, one entropy in 4.
    """
    ids = (2 if vocab_size <= 1 << 16 else 4) * k
    return ids + (4 if targets == "sampled" else 4 * k)


def _trained_tokens(experiment: Experiment) -> int:
    return experiment.train.steps * experiment.train.tokens_per_step

"""What a model learns from: the text alone, or another model's predictions of it as well.

An option that refers to a run says so in its field's metadata. Planning puts that run's identity there, and whoever
trains brings the run itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from components.registry import Component, OptionError, register

if TYPE_CHECKING:
    from lab.data.encoder import Encoder
    from lab.training.experiment import Experiment
    from lab.training.module import NextToken
    from lab.training.teacher import Teacher

REFERS_TO_RUN = {"refers_to_run": True, "expected": "a run, such as sweep/arm/seed-0"}
"""Metadata of a component's text option that names a run, and in a frozen configuration holds its identity."""


class Recipe(Component, kind="recipe"):
    """What a model learns from."""

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


@register("distillation")
class Distillation(Recipe):
    """A teacher's whole distribution over each next token: cross-entropy -Σ p_teacher log p_student.

    As Gemma 2's small models were trained (2408.00118, section 3.2), where no temperature and no share of hard labels
    is stated. The teacher runs along with the student, in evaluation mode, on the same tokens and documents.

    Attributes:
        teacher: the run to learn from, finished and of the same tokenizer: by its path below the root, or its identity.
        temperature: divides both models' logits; the term is then multiplied by its square, so that its gradient keeps
            its size beside the hard labels' (Hinton et al. 2015, 1503.02531, section 2).
        hard_label_weight: share of the ordinary cross-entropy in the objective; the teacher's term has the rest.
    """

    teacher: str = field(metadata=REFERS_TO_RUN)
    temperature: float = 1.0
    hard_label_weight: float = 0.0

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

    def check_run(self, option: str, needed: Experiment, experiment: Experiment, tokenizer: Path | None) -> None:
        from lab.training.teacher import refusal

        reason = refusal(needed, experiment, tokenizer)
        if reason is not None:
            raise OptionError(option, reason)

    def flops_per_token(self, option: str, forward: float) -> float:
        return forward

    def module(self, trained: Mapping[str, Teacher], tokenizer: Encoder) -> Callable[..., NextToken]:
        from lab.training.distillation import Distilled
        from lab.training.teacher import digest_of

        teacher = trained.get(self.teacher)
        if teacher is None:
            raise OptionError("recipe.teacher", f"run {self.teacher[:12]}… is needed, and was not brought along")
        if teacher.tokenizer != digest_of(tokenizer):
            raise OptionError(
                "recipe.teacher", f"{teacher.run} was trained on another tokenizer's tokens than this text is in"
            )
        return functools.partial(
            Distilled,
            teacher=teacher,
            temperature=self.temperature,
            hard_label_weight=self.hard_label_weight,
        )

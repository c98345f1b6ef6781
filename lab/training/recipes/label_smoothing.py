"""The options of label smoothing. `lab.training.recipes.smoothing` implements it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from components.registry import OptionError, register
from lab.training.recipes.base import Recipe

if TYPE_CHECKING:
    from lab.data.tokenizers.encoder import Encoder
    from lab.training.module import NextToken
    from lab.training.recipes.teacher import Teacher


@register("label_smoothing")
class LabelSmoothing(Recipe):
    """Learn from the text with smoothed labels: cross-entropy against (1 - ε) · token + ε / V.

    A control for distillation, which also softens the targets (Szegedy et al. 2015, 1512.00567, section 7). The
    objective is torch's cross_entropy(label_smoothing=ε) over all V logits, and is recorded as `objective`. The loss of
    a step is still the plain cross-entropy.

    Attributes:
        epsilon: the share of the uniform distribution in the targets.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise OptionError("epsilon", f"must lie between 0 and 1, got {self.epsilon}; with none, recipe=next_token")

    def module(self, teachers: Mapping[str, Teacher], tokenizer: Encoder) -> Callable[..., NextToken]:
        from lab.training.recipes.smoothing import LabelSmoothingModule

        return functools.partial(LabelSmoothingModule, epsilon=self.epsilon)

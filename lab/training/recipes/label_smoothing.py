"""Label smoothing as options. `lab.training.recipes.smoothing` trains by it."""

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

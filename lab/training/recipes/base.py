"""What a model learns from: the text alone, or another model's predictions of it as well.

An option that refers to a run says so in its field's metadata. Planning puts that run's identity there, and whoever
trains brings the run itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components.registry import Component, register

if TYPE_CHECKING:
    from lab.data.tokenizers.encoder import Encoder
    from lab.training.module import NextToken
    from lab.training.options import RunConfiguration
    from lab.training.recipes.teacher import Teacher

REFERS_TO_RUN = {"refers_to_run": True, "expected": "a run, such as sweep/arm/seed-0"}
"""Metadata of a component's text option that names a run, and in a frozen configuration holds its identity."""


def run_options(component: type[Component]) -> tuple[str, ...]:
    """The names of a component's options that refer to runs."""
    fields = dataclasses.fields(component)  # type: ignore[arg-type]
    return tuple(field.name for field in fields if field.metadata.get("refers_to_run"))


class Recipe(Component, kind="recipe", home="lab.training.catalogue"):
    """What a model learns from."""

    def check(self, experiment: RunConfiguration) -> None:
        """Refuse what doesn't go with the rest of an experiment.

        Raises:
            OptionError: at the option that doesn't.
        """

    def check_run(
        self, option: str, needed: RunConfiguration, experiment: RunConfiguration, tokenizer: Path | None
    ) -> None:
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

    def cache_bytes(self, experiment: RunConfiguration) -> int:
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

"""Recipes: what a model learns from, such as the text or another model's predictions.

An option may refer to another run, which the metadata of its field states. Planning replaces it with the identity of
that run, and the worker loads the run for training.
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
"""Metadata of a text option that names a run. In a frozen configuration its value is the identity of the run."""


def run_options(component: type[Component]) -> tuple[str, ...]:
    """The names of a component's options that refer to runs."""
    fields = dataclasses.fields(component)  # type: ignore[arg-type]
    return tuple(field.name for field in fields if field.metadata.get("refers_to_run"))


class Recipe(Component, kind="recipe", home="lab.training.catalogue"):
    """The options of a recipe, which decides what a model learns from."""

    def check(self, experiment: RunConfiguration) -> None:
        """Check the options against the rest of an experiment.

        Raises:
            OptionError: at the option that conflicts with it.
        """

    def check_run(
        self, option: str, needed: RunConfiguration, experiment: RunConfiguration, tokenizer: Path | None
    ) -> None:
        """Check a run that an option refers to, as far as configurations tell.

        Args:
            needed: the configuration of that run.
            experiment: the configuration that this recipe is part of.
            tokenizer: the folder of that run's tokenizer; None if the run doesn't exist yet.

        Raises:
            OptionError: at `option`, with the reason why the run can't be used.
        """

    def flops_per_token(self, option: str, forward: float) -> float:
        """The FLOPs per training token of using the run that an option refers to.

        Args:
            forward: FLOPs per token of a forward pass of that run's model.
        """
        return 0.0

    def flops_in_step(self, option: str, forward: float) -> float:
        """The part of `flops_per_token` in every step, which counts for MFU."""
        return self.flops_per_token(option, forward)

    @property
    def work(self) -> str:
        """A key for the time of a step. Recipes with the same key take the same time, apart from other runs."""
        return self.name

    def cache_bytes(self, experiment: RunConfiguration) -> int:
        """Bytes of other models' outputs that a run stores in the cache."""
        return 0

    def module(self, teachers: Mapping[str, Teacher], tokenizer: Encoder) -> Callable[..., NextToken]:
        """A function that builds the Lightning module, with the parameters of `lab.training.module.NextToken`.

        Args:
            teachers: identity → loaded run, for every run that an option refers to.
            tokenizer: the encoder of the training text.

        Raises:
            OptionError: a run is missing or can't be used on this text.
        """
        raise NotImplementedError


@register("next_token")
class NextTokenPrediction(Recipe):
    """Learn from the text alone: cross-entropy of each token given the tokens before it."""

    def module(self, teachers: Mapping[str, Teacher], tokenizer: Encoder) -> Callable[..., NextToken]:
        from lab.training.module import NextToken

        return NextToken

"""The typed configuration of a run, which composition builds and training reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from components.architecture import Architecture
from components.registry import Component, OptionError
from lab.data.options import Data, Task
from lab.training.evaluator_needs import UNKNOWN_METRIC, EvaluatorNeeds, refusal_of_evaluation_name
from lab.training.optimizers.optimizer import Optimizer
from lab.training.optimizers.schedule import Schedule
from lab.training.options import Train, Validation
from lab.training.recipes.base import NextTokenPrediction, Recipe


class EvaluatorOptions(Component, kind="evaluator", home="lab.evaluation.catalogue"):
    """The options of an evaluator, which measures a trained model."""

    reads_text: ClassVar[bool] = False
    """Whether the evaluator needs text. A run on a synthetic task has none."""

    generates: ClassVar[bool] = False
    """Whether the evaluator generates from a cache, which every layer of the model must then keep."""

    def check(self, experiment: Experiment) -> None:
        """Check that this evaluator can measure the runs of an experiment, as far as its configuration tells.

        `refuse_evaluator` calls it, and checks `needs` besides.

        Raises:
            OptionError: at an option of this evaluator.
        """

    def needs(self, experiment: Experiment) -> EvaluatorNeeds:
        """What it needs to measure a run of this experiment."""
        return EvaluatorNeeds()

    def metric_names(self, experiment: Experiment) -> tuple[str, ...]:
        """The metrics that it measures on a run of this experiment; UNKNOWN_METRIC if there may be others."""
        return (UNKNOWN_METRIC,)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An architecture, its data, a recipe and a budget.

    Attributes:
        name: the name of the experiment, as in `experiments/`.
        seed: the random seed of the initial weights, of dropout, and of the order of the data unless `data.seed` is
            set.
        recipe: what the model learns from.
        evaluate: name → evaluator, to measure the trained model with. The name is the first part of its metrics.
    """

    name: str = field(metadata={"affects_result": False})
    seed: int
    model: Architecture
    data: Data
    train: Train
    validation: Validation
    optimizer: Optimizer
    schedule: Schedule
    recipe: Recipe = field(default_factory=NextTokenPrediction)
    evaluate: Mapping[str, EvaluatorOptions] = field(default_factory=dict, metadata={"affects_result": False})

    def __post_init__(self) -> None:
        """Check the parts against each other.

        Raises:
            OptionError: two options that are valid on their own conflict.
        """
        try:
            self.schedule.check(self.train.steps, self.train.tokens_per_step)
        except OptionError as error:
            raise OptionError(f"schedule.{error.option}", error.message) from None
        n_ids = self.data.tokenizer.vocab_size()
        if self.model.vocab_size < n_ids:
            raise OptionError(
                "model.vocab_size", f"{self.model.vocab_size:,} is too small for the tokenizer's {n_ids:,} tokens"
            )

        limit = self.model.max_context
        if limit is not None and limit < self.train.context:
            raise OptionError(
                "train.context", f"{self.train.context:,} tokens are beyond the model's {limit:,} positions"
            )

        if isinstance(self.data.corpus, Task):
            self._check_task(self.data.corpus)

        try:
            self.recipe.check(self)
        except OptionError as error:
            raise OptionError(f"recipe.{error.option}", error.message) from None

        for name, evaluator in self.evaluate.items():
            if (reason := refusal_of_evaluation_name(name)) is not None:
                raise OptionError(f"evaluate.{name}", reason)
            try:
                refuse_evaluator(evaluator, self)
            except OptionError as error:
                raise OptionError(f"evaluate.{name}.{error.option}".rstrip("."), error.message) from None

    def _check_task(self, task: Task) -> None:
        try:
            task.check(self.train.context, self.data.tokenizer.vocab_size())
        except OptionError as error:
            raise OptionError(f"data.corpus.{error.option}", error.message) from None
        if self.validation.tokens is None:
            raise OptionError(
                "validation.tokens", f"corpus '{task.name}' has no end: its items are generated; set a number"
            )
        if self.train.mask_documents:
            raise OptionError("train.mask_documents", f"corpus '{task.name}' has no documents to stay inside of")
        if not isinstance(self.recipe, NextTokenPrediction):
            raise OptionError(
                "recipe",
                f"{self.recipe.name} learns at every token of a text, and corpus '{task.name}' asks at a few; "
                f"choose recipe={NextTokenPrediction.name}",
            )

    @property
    def data_seed(self) -> int:
        """The random seed of the order of the data."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of a finished run. `name/*` stands for an evaluation whose metrics aren't known before."""
        on_data = "val/accuracy" if isinstance(self.data.corpus, Task) else "val/bits_per_byte"
        evaluations = (
            f"{name}/{metric}" for name, evaluator in self.evaluate.items() for metric in evaluator.metric_names(self)
        )
        return ("val/loss", on_data, "train/loss", "unigram/loss", *evaluations)


def refuse_evaluator(evaluator: EvaluatorOptions, experiment: Experiment) -> None:
    """Check that an evaluator can measure the runs of an experiment, by its configuration alone.

    Files, texts and libraries are checked by `lab.training.data.requirements`, as they can change after a run was made.

    Raises:
        OptionError: at an option of the evaluator, or at no option if it can't be used at all.
    """
    corpus = experiment.data.corpus
    if evaluator.reads_text and isinstance(corpus, Task):
        raise OptionError("", f"{evaluator.name} reads text, and corpus '{corpus.name}' has none")
    without_cache = experiment.model.mixers_without_cache
    if evaluator.generates and without_cache:
        raise OptionError("", f"{evaluator.name} generates from a cache, and mixer '{without_cache[0]}' keeps none")
    evaluator.check(experiment)
    limit = experiment.model.max_context
    for option, tokens in evaluator.needs(experiment).positions.items():
        if limit is not None and limit < tokens:
            raise OptionError(option, f"{tokens:,} tokens are beyond the model's {limit:,} positions")

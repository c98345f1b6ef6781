"""What the unit and the sample of a run's metrics depend on: its tokenizer, its text, and how the text is scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lab.training.options import TRAINING_METRICS

Plain = Mapping[str, object]
"""A part of a frozen configuration: names and values as in its YAML file."""

Digest = Literal["tokens", "tokenizer", "validation", "corpus"]

WHOLE = 0.99
"""From this share on, the validation text counts as scored as a whole. Its last, incomplete window is never scored."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """How an evaluation of a run was made, or will be.

    Attributes:
        evaluator: the name of the evaluator; None if it isn't known.
        options: its options.
        version: its version; None if it isn't known.
        device: `cpu`, or a GPU's name; None if it isn't known.
        texts: name → digest of the tokens that it read, for a text other than the run's own.
        scored: number of tokens that it predicted; None if it isn't known.
    """

    evaluator: str | None = None
    options: Plain = field(default_factory=dict)
    version: int | None = None
    device: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    scored: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What the metrics of a run depend on, apart from its weights. Parts that aren't known are None or empty.

    Attributes:
        tokenizer: options of the tokenizer.
        data: options of the text or of the synthetic task, without the tokenizer and the seed.
        digests: digests of the tokens of the whole text, of the tokenizer, of the validation text and of the whole text
            with its split.
        context: tokens of a sequence.
        mask_documents: whether attention stays within a document.
        validation_tokens: number of tokens that validation predicts, as configured; None for all.
        held_out: number of tokens of the validation text.
        recipe: options of the recipe.
        data_seed: decides the order of the training text; None for the run's seed.
        evaluations: name → evaluation.
        components: `kind/name` → version.
        device: that it was trained on.
    """

    tokenizer: Plain = field(default_factory=dict)
    data: Plain = field(default_factory=dict)
    digests: Mapping[Digest, str] = field(default_factory=dict)
    context: int | None = None
    mask_documents: bool = False
    validation_tokens: int | None = None
    held_out: int | None = None
    recipe: Plain = field(default_factory=dict)
    data_seed: object = None
    evaluations: Mapping[str, Evaluated] = field(default_factory=dict)
    components: Mapping[str, int] = field(default_factory=dict)
    device: str | None = None

    @property
    def is_task(self) -> bool:
        """Whether the run is trained on a synthetic task, which has no text."""
        return self.tokenizer.get("name") == "ids"

    def scored(self, context: int | None = None) -> int | None:
        """Number of tokens that validation predicts; None if it isn't known.

        Args:
            context: tokens of a window; None for the run's context.
        """
        context = context or self.context
        if self.held_out is None or not context:
            return None
        windows = (self.held_out - 1) // context
        if self.validation_tokens is not None:
            windows = min(windows, -(-self.validation_tokens // context))
        return windows * context

    def scored_share(self) -> float | None:
        """The share of the validation text that validation predicts; None if it isn't known."""
        if self.held_out is None:
            return 1.0 if self.validation_tokens is None else None
        scored = self.scored()
        return None if scored is None else scored / self.held_out


def scoring_of(config: Plain) -> Scoring:
    """What a frozen configuration tells. Values of the wrong type count as unknown."""
    data, train, validation = (_mapping(config, key) for key in ("data", "train", "validation"))
    tokens = validation.get("tokens")
    return Scoring(
        tokenizer=_mapping(data, "tokenizer"),
        data={key: value for key, value in data.items() if key not in ("tokenizer", "seed")},
        context=context if isinstance(context := train.get("context"), int) else None,
        mask_documents=bool(train.get("mask_documents")),
        validation_tokens=tokens if isinstance(tokens, int) else None,
        recipe=_mapping(config, "recipe"),
        data_seed=data.get("seed"),
        evaluations={
            str(name): Evaluated(
                evaluator=str(options.get("name")),
                options={key: value for key, value in options.items() if key != "name"},
            )
            for name, options in _mapping(config, "evaluate").items()
            if isinstance(options, Mapping)
        },
    )


def evaluations_of(metrics: Iterable[str]) -> tuple[str, ...]:
    """The names of the evaluations that measure some metrics; training measures the others."""
    names = dict.fromkeys(metric.partition("/")[0] for metric in metrics)
    return tuple(name for name in names if name not in TRAINING_METRICS)


def _mapping(of: Plain, key: str) -> Plain:
    value = of.get(key)
    return value if isinstance(value, Mapping) else {}

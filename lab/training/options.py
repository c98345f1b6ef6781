"""The options of a run that belong to no component: budget, shape of a step, and validation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from components.compilation import Compile
from components.registry import OptionError

if TYPE_CHECKING:
    from components.architecture import Architecture
    from lab.data.options import Data

Precision = Literal["fp32", "bf16-mixed"]
Accelerator = Literal["auto", "cpu", "cuda"]

TRAINING_METRICS = ("train", "val", "unigram")
"""First parts of the names of metrics that training itself measures."""


_NO_EFFECT_ON_RESULT = {"affects_result": False}
"""Metadata of a field that doesn't change the result of a run, and so isn't part of its identity."""


def _at_least_one(option: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise OptionError(option, f"must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class Train:
    """The training budget and the shape of a step.

    Attributes:
        tokens: the budget. It is rounded up to whole steps.
        context: tokens per sequence.
        global_batch: sequences per optimizer step; the loss is their mean.
        micro_batch: sequences per forward pass, a divisor of global_batch; None for the whole batch. Gradients
            accumulate over the micro-batches. This changes memory but not the result, except for rounding, for the
            activations that dropout picks, and for the tokens over which a mixture of experts balances its load.
        precision: fp32 throughout, or bf16 autocast with fp32 weights and optimizer states.
        grad_clip: maximum global L2 norm of the gradient of a step; None for no clipping.
        mask_documents: whether attention stays within a document of a packed sequence.
        kernel: the attention kernel; `auto` picks the fastest that supports the whole specification.
        compile: whether torch.compile compiles the model's blocks; `auto` compiles if the budget is large enough. This
            changes the last bits of results, as another device does. The provenance has the decision and the reason.
        log_every: optimizer steps between two points of a training curve. The first and the last step always have one.
        checkpoint_minutes: training time between two checkpoints. The end and a preemption always write one.
        accelerator: the device type; `auto` takes a CUDA device if there is one.
    """

    tokens: int
    context: int
    global_batch: int
    micro_batch: int | None = field(default=None, metadata=_NO_EFFECT_ON_RESULT)
    precision: Precision = "fp32"
    grad_clip: float | None = 1.0
    mask_documents: bool = False
    kernel: str = "auto"
    compile: Compile = field(default="auto", metadata=_NO_EFFECT_ON_RESULT)
    log_every: int = field(default=10, metadata=_NO_EFFECT_ON_RESULT)
    checkpoint_minutes: float = field(default=10.0, metadata=_NO_EFFECT_ON_RESULT)
    accelerator: Accelerator = field(default="auto", metadata=_NO_EFFECT_ON_RESULT)

    def __post_init__(self) -> None:
        for option in ("tokens", "context", "global_batch", "micro_batch", "log_every"):
            _at_least_one(option, getattr(self, option))
        if self.global_batch % self.sequences_per_forward:
            raise OptionError("micro_batch", f"{self.micro_batch} does not divide the global batch {self.global_batch}")
        for option in ("grad_clip", "checkpoint_minutes"):
            value = getattr(self, option)
            if value is not None and not value > 0:
                raise OptionError(option, f"must be positive, got {value}")
        for option, choices in (("precision", Precision), ("compile", Compile), ("accelerator", Accelerator)):
            values = get_args(choices)
            if getattr(self, option) not in values:
                raise OptionError(option, f"must be one of {', '.join(values)}, got {getattr(self, option)!r}")

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step trains on."""
        return self.context * self.global_batch

    @property
    def steps(self) -> int:
        """Optimizer steps in the budget."""
        return math.ceil(self.tokens / self.tokens_per_step)

    @property
    def sequences_per_forward(self) -> int:
        """Sequences per forward pass."""
        return self.global_batch if self.micro_batch is None else self.micro_batch


@dataclass(frozen=True, kw_only=True)
class Validation:
    """When to measure the model on held-out data, and on how much of it.

    Attributes:
        every: training tokens between two validations, rounded to whole steps; None to validate at the end only. There
            is always a validation at the end.
        tokens: number of validation tokens; the same windows at every step of every run. None for the whole validation
            text, which makes bits per byte comparable across tokenizers.
    """

    every: int | None = None
    tokens: int | None = 65_536

    def __post_init__(self) -> None:
        _at_least_one("every", self.every)
        _at_least_one("tokens", self.tokens)

    def interval(self, tokens_per_step: int) -> int | None:
        """Optimizer steps between two validations; None to validate at the end only."""
        return None if self.every is None else max(1, round(self.every / tokens_per_step))


class RunConfiguration(Protocol):
    """The parts of a configuration that a recipe may check; `lab.training.experiment.Experiment` is one."""

    @property
    def model(self) -> Architecture: ...
    @property
    def data(self) -> Data: ...
    @property
    def train(self) -> Train: ...

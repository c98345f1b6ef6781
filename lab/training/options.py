"""How much to train, on what, and how the work is cut up: the options of a run that belong to no component."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from components.registry import OptionError

if TYPE_CHECKING:
    from components.architecture import Architecture
    from lab.data.options import Data

Precision = Literal["fp32", "bf16-mixed"]
Accelerator = Literal["auto", "cpu", "cuda"]
Compile = Literal["auto", "on", "off"]


_AS_YOU_LIKE = {"affects_result": False}
"""Marks a field that changes how a run proceeds but not what it computes: it is no part of the run's identity."""


def _at_least_one(option: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise OptionError(option, f"must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class Train:
    """The training budget and the shape of a step.

    Attributes:
        tokens: the budget. The last step is whole, so up to one step's tokens more are trained on.
        context: tokens a sequence.
        global_batch: sequences an optimizer step; the loss is their mean.
        micro_batch: sequences a forward pass, a divisor of global_batch; None for all at once. Gradients accumulate
            over the passes, so memory changes and the result does not, but for rounding (and for which activations
            dropout picks, and over which tokens a mixture of experts balances its load, where a model has either).
        precision: fp32 throughout, or bf16 autocast over fp32 weights and optimizer states.
        grad_clip: largest global L2 norm of the gradient of a step; None leaves it as it is.
        mask_documents: whether attention stays inside a document of a packed sequence; else it sees the ones before it.
        kernel: how attention is computed; `auto` picks the fastest that honours the whole specification.
        compile: whether torch.compile compiles the model's blocks, which changes the last bits of what they compute (as
            another device does): `auto` where the budget repays the compilation. The provenance says whether and why.
        log_every: optimizer steps between two points of a training curve. The first and the last are always there.
        checkpoint_minutes: training time between two checkpoints. The end and a preemption always write one.
        accelerator: where to train; `auto` takes a CUDA device if there is one.
    """

    tokens: int
    context: int
    global_batch: int
    micro_batch: int | None = field(default=None, metadata=_AS_YOU_LIKE)
    precision: Precision = "fp32"
    grad_clip: float | None = 1.0
    mask_documents: bool = False
    kernel: str = "auto"
    compile: Compile = field(default="auto", metadata=_AS_YOU_LIKE)
    log_every: int = field(default=10, metadata=_AS_YOU_LIKE)
    checkpoint_minutes: float = field(default=10.0, metadata=_AS_YOU_LIKE)
    accelerator: Accelerator = field(default="auto", metadata=_AS_YOU_LIKE)

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
        """Sequences that one forward pass sees."""
        return self.global_batch if self.micro_batch is None else self.micro_batch


@dataclass(frozen=True, kw_only=True)
class Validation:
    """When the model is measured on held-out text, and on how much of it.

    Attributes:
        every: training tokens between two validations, rounded to whole steps; None for one at the end only. There
            is always one at the end.
        tokens: size of the validation set, the same windows at every step of every run.
    """

    every: int | None = None
    tokens: int = 65_536

    def __post_init__(self) -> None:
        _at_least_one("every", self.every)
        _at_least_one("tokens", self.tokens)

    def interval(self, tokens_per_step: int) -> int | None:
        """Optimizer steps between two validations; None for none before the end."""
        return None if self.every is None else max(1, round(self.every / tokens_per_step))


class RunConfiguration(Protocol):
    """What a recipe may check of a run's configuration; `lab.training.experiment.Experiment` is one."""

    @property
    def model(self) -> Architecture: ...
    @property
    def data(self) -> Data: ...
    @property
    def train(self) -> Train: ...

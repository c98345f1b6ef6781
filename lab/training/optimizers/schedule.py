"""Learning-rate schedules, as pure functions of the step.

Every schedule rises linearly over `warmup_tokens`. No step has rate zero: the first step of a warm-up of w steps has
factor 1/(w+1), step w is the first at the peak, and a decay reaches its final value just after the last step.
"""

from __future__ import annotations

import math
from typing import Literal

from components.registry import Component, OptionError, register


class Schedule(Component, kind="schedule", home="lab.training.catalogue"):
    """The learning rate over a run."""

    warmup_tokens: int

    def factor(self, step: int, steps: int, tokens_per_step: int) -> float:
        """The factor of the learning rate at optimizer step `step` of `steps`, counted from 0.

        Raises:
            OptionError: the schedule doesn't fit the budget.
            ValueError: there is no such step.
        """
        self.check(steps, tokens_per_step)
        if not 0 <= step < steps:
            raise ValueError(f"step {step} is not one of the {steps} steps, 0 to {steps - 1}")
        warmup = self.warmup_steps(tokens_per_step)
        return (step + 1) / (warmup + 1) if step < warmup else self._after_warmup(step, steps, warmup)

    def check(self, steps: int, tokens_per_step: int) -> None:
        """Raise OptionError if the schedule doesn't fit a budget of `steps`."""
        if self.warmup_steps(tokens_per_step) >= steps:
            raise OptionError(
                "warmup_tokens",
                f"a warm-up of {self.warmup_tokens:,} tokens takes the whole budget of {steps * tokens_per_step:,} "
                f"({steps:,} steps of {tokens_per_step:,}): give it less, or train for longer",
            )

    def warmup_steps(self, tokens_per_step: int) -> int:
        """Number of optimizer steps of the warm-up."""
        return math.ceil(self.warmup_tokens / tokens_per_step)

    def _after_warmup(self, step: int, steps: int, warmup: int) -> float:
        raise NotImplementedError

    def _check_options(self, **fractions: float) -> None:
        if self.warmup_tokens < 0:
            raise OptionError("warmup_tokens", f"cannot be negative, got {self.warmup_tokens}")
        for option, value in fractions.items():
            if not 0 <= value <= 1:
                raise OptionError(option, f"must lie in [0, 1], got {value}")


@register("constant")
class ConstantSchedule(Schedule):
    """The peak rate from the end of the warm-up to the end of the run.

    Attributes:
        warmup_tokens: length of the warm-up in tokens.
    """

    warmup_tokens: int = 0

    def __post_init__(self) -> None:
        self._check_options()

    def _after_warmup(self, step: int, steps: int, warmup: int) -> float:
        return 1.0


@register("cosine")
class Cosine(Schedule):
    """Half a cosine from the peak to `final_fraction` of it (Loshchilov and Hutter 2017, without restarts).

    Attributes:
        warmup_tokens: length of the warm-up in tokens.
        final_fraction: final rate, as a share of the peak.
    """

    warmup_tokens: int = 0
    final_fraction: float = 0.1

    def __post_init__(self) -> None:
        self._check_options(final_fraction=self.final_fraction)

    def _after_warmup(self, step: int, steps: int, warmup: int) -> float:
        progress = (step - warmup) / (steps - warmup)
        return _between(1.0, self.final_fraction, (1 + math.cos(math.pi * progress)) / 2)


@register("wsd")
class WarmupStableDecay(Schedule):
    """The peak, then a decay to `final_fraction` of it over the last `decay_fraction` of the run.

    As in MiniCPM (Hu et al. 2024, arXiv:2404.06395).

    Attributes:
        warmup_tokens: length of the warm-up in tokens.
        decay_fraction: length of the decay, as a share of the run.
        final_fraction: final rate, as a share of the peak.
        shape: of the decay: `linear`, `cosine`, or `sqrt`, the 1 − sqrt form that was best for Hägele et al. 2024
            (arXiv:2405.18392).
    """

    warmup_tokens: int = 0
    decay_fraction: float = 0.2
    final_fraction: float = 0.0
    shape: Literal["linear", "cosine", "sqrt"] = "sqrt"

    def __post_init__(self) -> None:
        self._check_options(decay_fraction=self.decay_fraction, final_fraction=self.final_fraction)
        if self.decay_fraction == 0:
            raise OptionError("decay_fraction", "must be above 0; the schedule without a decay is called `constant`")
        if self.shape not in ("linear", "cosine", "sqrt"):
            raise OptionError("shape", f"must be one of linear, cosine, sqrt, got {self.shape!r}")

    def decay_steps(self, steps: int) -> int:
        """Number of optimizer steps of the decay. The first of them is still at the peak."""
        return max(1, round(self.decay_fraction * steps))

    def check(self, steps: int, tokens_per_step: int) -> None:
        super().check(steps, tokens_per_step)
        warmup, decay = self.warmup_steps(tokens_per_step), self.decay_steps(steps)
        if warmup + decay > steps:
            raise OptionError(
                "decay_fraction",
                f"a warm-up of {warmup:,} steps and a decay of {decay:,} do not fit into a budget of {steps:,}",
            )

    def _after_warmup(self, step: int, steps: int, warmup: int) -> float:
        decay = self.decay_steps(steps)
        progress = max(0.0, (step - (steps - decay)) / decay)
        match self.shape:
            case "linear":
                remaining = 1 - progress
            case "cosine":
                remaining = (1 + math.cos(math.pi * progress)) / 2
            case "sqrt":
                remaining = 1 - math.sqrt(progress)
        return _between(1.0, self.final_fraction, remaining)


def _between(peak: float, final: float, remaining: float) -> float:
    """Interpolate: `final` if no part of the decay remains, `peak` if all of it does."""
    return final + (peak - final) * remaining

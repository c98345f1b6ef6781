"""Decide whether to compile a run's blocks with torch.compile, and fall back if compilation fails.

Only the blocks are compiled, without their attention kernels. Embedding, head and loss are a few large operations and
gain little. All layers then share a few graphs, so compilation takes about a minute instead of many. Compiled blocks
differ from uncompiled ones in the last bits, so a resumed run keeps its first decision.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import nn

from components.compilation import (
    CompileDecision,
    compile_failures,
    compiler_obstacle,
    failure_reason,
    no_tracing_warnings,
)
from components.compile_opaque import shield_from_compiler
from components.language_model import LanguageModel
from components.registry import OptionError
from lab.training.options import Train
from lab.training.parallel.world import World
from lab.training.progress.phase_clock import part

Result = TypeVar("Result")

MIN_FLOPS = {"cpu": 1e14, "cuda": 1e17}
"""Training FLOPs from which `auto` compiles, by device type.

The first compilation takes up to half a minute on two cores and makes steps an eighth to a quarter shorter
(benchmarks/train_throughput.md), so it pays off after about four minutes of training. These thresholds are several
times that, at the speed of a few cores and of one large GPU.
"""


class Compiler:
    """Compiles a model's blocks when training starts, if requested or worthwhile.

    Attributes:
        decision: whether the blocks are compiled; None until training starts. Checkpoints store it.
    """

    def __init__(self, model: LanguageModel, train: Train, device: torch.device, world: World) -> None:
        """
        Raises:
            OptionError: at train.compile, if it is `on` and compilation isn't possible.
        """
        self.decision: CompileDecision | None = None
        self._model, self._train, self._device = model, train, device
        self._obstacle = obstacle(device.type, world.size) if _blocks(model) else "the model has no blocks"
        self._is_first_step = False
        self._compiled: list[Callable[..., object]] = []
        if train.compile == "on" and self._obstacle is not None:
            raise OptionError("train.compile", f"on is not possible here: {self._obstacle}; auto or off would train")

    def start(self) -> None:
        """Decide whether to compile from the next step on. A resumed attempt keeps the decision in its checkpoint."""
        earlier, self.decision = self.decision, self._decide(self.decision)
        if earlier is not None and earlier.is_on != self.decision.is_on:
            _warn(f"{self.decision}; it was {earlier}: from here on the last bits may differ")
        elif self._train.compile == "auto" and self._pays_off and self._obstacle is not None and earlier is None:
            _warn(str(self.decision))
        if self.decision.is_on:
            shield_from_compiler()
            self._compiled = [torch.compile(block.forward, dynamic=False) for block in _blocks(self._model)]
            self._set_compiled(True)
            self._is_first_step = True

    def step(self, work: Callable[[], Result], undo: Callable[[], None]) -> Result:
        """Return the result of `work`, the forward and backward passes of a step. The first call compiles.

        Args:
            undo: reverts the effects of `work` if compilation fails; `work` is then called again without compilation.

        Raises:
            OptionError: compilation failed, and train.compile is `on`.
        """
        if not self._is_first_step:
            return work()
        self._is_first_step = False
        try:
            with no_tracing_warnings(), part("compilation"):
                return work()
        except compile_failures() as error:
            reason = failure_reason(error)
            if self._train.compile == "on":
                raise OptionError("train.compile", f"{reason}; auto or off would train") from error
            self.decision = CompileDecision(False, reason)
            _warn(str(self.decision))
            self._set_compiled(False)
            undo()
            return work()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Run the blocks uncompiled within the context: validation would need graphs of its own."""
        is_compiled = any("forward" in vars(block) for block in _blocks(self._model))
        self._set_compiled(False)
        try:
            yield
        finally:
            self._set_compiled(is_compiled)

    def _set_compiled(self, is_compiled: bool) -> None:
        """Switch the blocks between their compiled forward passes and those of their classes."""
        for block, forward in zip(_blocks(self._model), self._compiled, strict=False):
            if is_compiled:
                block.forward = forward
            else:
                vars(block).pop("forward", None)

    def _decide(self, earlier: CompileDecision | None) -> CompileDecision:
        if self._train.compile != "auto":
            return CompileDecision(self._train.compile == "on", "asked for")
        if self._obstacle is not None:
            return CompileDecision(False, self._obstacle)
        if earlier is not None:
            return earlier
        threshold = MIN_FLOPS[self._device.type]
        budget = f"the budget of about {self._flops:.1e} FLOPs"
        if self._pays_off:
            return CompileDecision(True, f"{budget} repays it (from {threshold:.0e})")
        return CompileDecision(False, f"{budget} does not repay it (from {threshold:.0e})")

    @property
    def _flops(self) -> float:
        return 6.0 * self._train.tokens * sum(parameter.numel() for parameter in self._model.parameters())

    @property
    def _pays_off(self) -> bool:
        return self._flops >= MIN_FLOPS[self._device.type]


def _blocks(model: LanguageModel) -> list[nn.Module]:
    return list(model.blocks)


def obstacle(device: str, processes: int) -> str | None:
    """Why a run can't be compiled on this machine; None if no reason is known.

    Args:
        device: the device type.
        processes: that train the run together.
    """
    return "several processes train together" if processes > 1 else compiler_obstacle(device)


def _warn(message: str) -> None:
    print(f"warning: train.compile: {message}", file=sys.stderr, flush=True)

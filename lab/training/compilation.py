"""Whether a run's blocks go through torch.compile, and what happens where that fails.

Only the blocks are compiled (embedding, head and loss are few large operations), and attention kernels stay as they are
inside of them: every layer then shares the same few graphs, and compiling takes a minute where the whole model takes
many. What is compiled differs from what is not in the last bits, so a run that goes on keeps to what it began with.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from components.compile_opaque import shield_from_compiler
from components.language_model import LanguageModel
from components.registry import OptionError
from lab.training.options import Train
from lab.training.parallel.world import World

Result = TypeVar("Result")

REPAID_FLOPS = {"cpu": 1e14, "cuda": 1e17}
"""Training FLOPs from which `auto` compiles, by kind of device.

Compiling takes up to half a minute of two cores the first time and makes steps an eighth to a quarter shorter
(benchmarks/train_throughput.md): it is repaid after some four minutes of training. These are several times that, at
the speed of a few cores and of one large GPU.
"""


@dataclass(frozen=True)
class CompileVerdict:
    """Whether a run's blocks are compiled, and why."""

    on: bool
    reason: str

    def __str__(self) -> str:
        return f"{'on' if self.on else 'off'}: {self.reason}"

    @classmethod
    def stored(cls, text: str | None) -> CompileVerdict | None:
        """From a checkpoint, which holds it as text; None if it holds none."""
        state, _, reason = (text or "").partition(": ")
        return cls(state == "on", reason) if text else None


class Compiler:
    """Compiles a model's blocks when training starts, if that is asked for or pays.

    Attributes:
        verdict: whether the blocks are compiled; None until training starts. A checkpoint keeps it.
    """

    def __init__(self, model: LanguageModel, train: Train, device: torch.device, world: World) -> None:
        """
        Raises:
            OptionError: at train.compile, where it is `on` and can't be.
        """
        self.verdict: CompileVerdict | None = None
        self._model, self._train, self._device = model, train, device
        self._obstacle = _obstacle(model, device, world)
        self._untried = False
        self._compiled: list[Callable[..., object]] = []
        if train.compile == "on" and self._obstacle is not None:
            raise OptionError("train.compile", f"on is not possible here: {self._obstacle}; auto or off would train")

    def start(self) -> None:
        """Decide, and compile from the next step on; an attempt that goes on from a checkpoint decides as it did."""
        earlier, self.verdict = self.verdict, self._decide(self.verdict)
        if earlier is not None and earlier.on != self.verdict.on:
            _warn(f"{self.verdict}; it was {earlier}: from here on the last bits may differ")
        elif self._train.compile == "auto" and self._repaid and self._obstacle is not None and earlier is None:
            _warn(str(self.verdict))
        if self.verdict.on:
            shield_from_compiler()
            self._compiled = [torch.compile(block.forward, dynamic=False) for block in _blocks(self._model)]
            self._set_compiled(True)
            self._untried = True

    def step(self, work: Callable[[], Result], undo: Callable[[], None]) -> Result:
        """What `work` gives, a step's passes forward and backward: the first time is when compiling happens.

        Args:
            undo: takes back what work may have done before it failed; it is then done again without compiling.
        Raises:
            OptionError: compiling failed where it was asked for.
        """
        if not self._untried:
            return work()
        self._untried = False
        try:
            with _unwarned():
                return work()
        except _failures() as error:
            reason = f"torch.compile failed: {_first_line(error)}"
            if self._train.compile == "on":
                raise OptionError("train.compile", f"{reason}; auto or off would train") from error
            self.verdict = CompileVerdict(False, reason)
            _warn(str(self.verdict))
            self._set_compiled(False)
            undo()
            return work()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is called in here runs uncompiled: validation would need graphs of its own."""
        in_force = any("forward" in vars(block) for block in _blocks(self._model))
        self._set_compiled(False)
        try:
            yield
        finally:
            self._set_compiled(in_force)

    def _set_compiled(self, on: bool) -> None:
        """Let the blocks' compiled forward passes stand before those of their classes, or take them away."""
        for block, forward in zip(_blocks(self._model), self._compiled, strict=False):
            if on:
                block.forward = forward
            else:
                vars(block).pop("forward", None)

    def _decide(self, earlier: CompileVerdict | None) -> CompileVerdict:
        if self._train.compile != "auto":
            return CompileVerdict(self._train.compile == "on", "asked for")
        if self._obstacle is not None:
            return CompileVerdict(False, self._obstacle)
        if earlier is not None:
            return earlier
        at_least = REPAID_FLOPS[self._device.type]
        budget = f"the budget of about {self._flops:.1e} FLOPs"
        if self._repaid:
            return CompileVerdict(True, f"{budget} repays it (from {at_least:.0e})")
        return CompileVerdict(False, f"{budget} does not repay it (from {at_least:.0e})")

    @property
    def _flops(self) -> float:
        return 6.0 * self._train.tokens * sum(parameter.numel() for parameter in self._model.parameters())

    @property
    def _repaid(self) -> bool:
        return self._flops >= REPAID_FLOPS[self._device.type]


def _blocks(model: LanguageModel) -> list[nn.Module]:
    return list(model.blocks)


def _obstacle(model: LanguageModel, device: torch.device, world: World) -> str | None:
    """Why the blocks can't be compiled here; None if nothing is known to be in the way."""
    if not _blocks(model):
        return "the model has no blocks"
    if world.several:
        return "several processes train together"
    if device.type != "cpu":
        return None
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return "no C++ compiler was found (g++ or clang++, or the one that CXX names)"
    return None


def _failures() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    return TorchDynamoException, CppCompileError, InvalidCxxCompiler


def _first_line(error: Exception) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.strip().rstrip(":")[:200]


def _warn(message: str) -> None:
    print(f"warning: train.compile: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """Tracing warns of what it cannot see through, such as the kernels that are kept from it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\._(dynamo|inductor|functorch).*")
        yield

"""Generation at full speed: joined weights from the second token on, in a compiled step where that pays off."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor

from components.attention.key_values import KeyValues
from components.cache import Cache
from components.compilation import (
    Compile,
    CompileDecision,
    compile_failures,
    compiler_obstacle,
    failure_reason,
    no_tracing_warnings,
)
from components.compile_opaque import shield_from_compiler
from components.decoder import Decoder
from components.generation.forward import CachedForward
from components.generation.step import PreparedStep
from components.registry import OptionError

PREPARE_FROM = 16
"""Tokens from which weights are joined. In benchmarks/decoding.py that takes the time of a few steps, and saves a third
of each."""

COMPILE_SECONDS, COMPILE_SECONDS_A_LAYER = 5.0, 1.5
SAVED_SECONDS_A_LAYER = {"cpu": 0.0}
"""Seconds of processor time that the first compilation of a step takes; and by device type, where it was measured, the
seconds that each step is then shorter. On Zen 4 (benchmarks/decoding.py, batch 1) a compiled step is no faster than a
prepared one: 207 tokens/s beside 229. The compiler can't use packed products and packed calls of fused pieces."""


class PreparedForward(CachedForward):
    """As `CachedForward`, with what `PreparedStep` prepares before the second token, and compiled if that is decided.

    What is prepared takes memory beside the model's (`prepared_bytes`), which is freed with this object or by the next
    `begin`. It is made anew if weights change.

    Args:
        compile: whether to compile the step; `auto` does if the tokens that there is room for repay it. Compiled steps
            differ from others in the last bits.

    Attributes:
        decision: whether the step is compiled, and why; None until the second token.
    """

    def __init__(self, model: Decoder, compile: Compile = "auto") -> None:
        super().__init__(model)
        self.decision: CompileDecision | None = None
        self._compile = compile
        self._step: PreparedStep | None = None
        self._compiled: Callable[..., Tensor] | None = None
        self._is_first_step = False

    @property
    def prepared_bytes(self) -> int:
        """Bytes of joined weights at the moment."""
        return 0 if self._step is None else self._step.preparation.bytes

    def begin(self, prompts: Sequence[Sequence[int]], room: int) -> Tensor:
        """As in `NextLogits`.

        Raises:
            OptionError: at compile, if it is `on` and compilation isn't possible.
        """
        self._step = self._compiled = None
        self.decision = decide(self._model, self._compile, room)
        return super().begin(prompts, room)

    def extend(self, tokens: Tensor) -> Tensor:
        assert self.cache is not None
        assert self.decision is not None
        if self._step is None or not self._step.preparation.is_fresh:
            self._prepare(len(tokens), self.cache)
        assert self._step is not None
        if self._compiled is not None:
            logits, self.cache = self._compiled_logits(tokens[:, None], self.cache)
        else:
            logits, self.cache = self._step.logits(tokens[:, None], self.cache)
        return logits[:, 0]

    def _prepare(self, rows: int, cache: Cache) -> None:
        assert self.decision is not None
        self._step = self._compiled = None  # frees what there is before anything is made anew
        self._step = PreparedStep(self._model, rows, cache.capacity, traced=self.decision.is_on)
        if not self.decision.is_on:
            return
        if self._step.obstacle is not None:
            self._fail(self._step.obstacle, rows, cache)
            return
        shield_from_compiler()
        self._compiled = torch.compile(self._step.static_logits, dynamic=False, fullgraph=True)
        self._is_first_step = True
        for kept in cache.layers:
            if isinstance(kept, KeyValues) and kept.slots == cache.capacity:
                for buffer in kept.tensors.values():
                    torch._dynamo.maybe_mark_dynamic(buffer, 2)

    def _compiled_logits(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        assert self._step is not None
        assert self._compiled is not None
        self._model.check_length(1 + cache.length)
        step = cache.step(1)
        x = self._model.embedded(tokens, step.positions)
        frame = self._step.static_frame(step, cache, x.dtype)
        if not self._is_first_step:
            return self._compiled(x, frame, cache.layers), cache.after(step, cache.layers)
        self._is_first_step = False
        try:
            with no_tracing_warnings(), unequal_sizes():
                return self._compiled(x, frame, cache.layers), cache.after(step, cache.layers)
        except compile_failures() as error:
            self._fail(failure_reason(error), len(tokens), cache)
        assert self._step is not None
        return self._step.logits(tokens, cache)

    def _fail(self, reason: str, rows: int, cache: Cache) -> None:
        """Go on uncompiled.

        Raises:
            OptionError: compilation was asked for.
        """
        if self._compile == "on":
            raise OptionError("compile", f"on is not possible: {reason}; auto or off would generate")
        warnings.warn(f"generation is not compiled: {reason}", RuntimeWarning, stacklevel=2)
        self.decision = CompileDecision(False, reason)
        self._prepare(rows, cache)


def decide(model: Decoder, compile: Compile, tokens: int) -> CompileDecision:
    """Whether the steps that generate `tokens` tokens a text are compiled, and why.

    Raises:
        OptionError: at compile, if it is `on` and nothing can be compiled on this machine.
    """
    weight, layers = model.embedding.weight, len(model.blocks)
    if compile == "off":
        return CompileDecision(False, "asked for")
    if compile == "on":
        if (obstacle := compiler_obstacle(weight.device.type)) is not None:
            raise OptionError("compile", f"on is not possible here: {obstacle}; auto or off would generate")
        return CompileDecision(True, "asked for")
    device = weight.device.type
    if device not in SAVED_SECONDS_A_LAYER:
        return CompileDecision(False, f"not measured on {device}; compile=on compiles")
    cost = COMPILE_SECONDS + layers * COMPILE_SECONDS_A_LAYER
    saved = tokens * layers * SAVED_SECONDS_A_LAYER[device]
    if saved < cost:
        return CompileDecision(False, f"{tokens:,} tokens save about {saved:.0f} s of the {cost:.0f} s that it takes")
    if (obstacle := compiler_obstacle(device)) is not None:
        return CompileDecision(False, obstacle)
    return CompileDecision(True, f"{tokens:,} tokens save about {saved:.0f} s, and it takes {cost:.0f} s")


def unequal_sizes() -> AbstractContextManager[None]:
    """Tracing in which sizes that are equal by chance stay apart, so that one graph serves all positions."""
    from torch.fx.experimental import _config

    return cast(AbstractContextManager[None], cast(Any, _config).patch(use_duck_shape=False))

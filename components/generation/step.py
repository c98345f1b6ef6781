"""One step of generation in forms that are prepared once: few operations a layer, each weight read once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from components.cache import Cache, CacheFailure, LayerCache, Step
from components.decoder import Decoder
from components.forward_context import ForwardContext
from components.residual import PreparedBlock
from components.softcap import softcap
from components.stepping.frame import ExactRing, Frame, StaticRing
from components.stepping.preparation import Preparation

BUCKET = 64
"""A compiled step attends to so many slots at a time: it computes at most this many that hold nothing yet."""


class PreparedStep:
    """The passes of one generation over one new token a text, without gradients.

    Args:
        rows: texts that are generated together.
        capacity: of the cache.
        traced: prepare what `static_logits` needs to be compiled.

    Attributes:
        preparation: what was prepared, and whether it is still true.
        obstacle: why `static_logits` can't compute this model; None if it can.
    """

    def __init__(self, model: Decoder, rows: int, capacity: int, *, traced: bool = False) -> None:
        self._model = model
        embedding = model.embedding
        self.preparation = Preparation(rows, capacity, embedding.weight.device, traced=traced)
        self._blocks: list[Callable[[Tensor, ForwardContext], Tensor]] = []
        self.obstacle: str | None = None
        for number, block in enumerate(model.blocks):
            form = block.prepared(self.preparation)
            self._blocks.append(block if form is None else form)
            if not isinstance(form, PreparedBlock) or not form.is_prepared:
                self.obstacle = self.obstacle or f"layer {number}: {type(block.mixer).__name__} has no form for it"
        self._is_whole = self.obstacle is None
        self._final_norm = self.preparation.form(model.final_norm)
        self._head = model.head.prepared(self.preparation, embedding) or model.head

    def logits(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """The next tokens [B, 1] of the cached texts → logits [B, 1, V] after them, and the next cache.

        The cache that was passed in must not be used again.

        Raises:
            ValueError: the cache or the model's positions have no room for them.
            CacheFailure: a layer's mixer can't continue from a cache.
        """
        self._model.check_length(1 + cache.length)
        step = cache.step(1)
        x = self._model.embedded(tokens, step.positions)
        if self._is_whole:
            context = ForwardContext({}, {}, None, self._model.kernel, step)
        else:  # modules of a user's own read what they always read
            context = self._model.context(partial(cache.rotation, step, x.dtype), None, x, step)
        rotations = [cache.rotation(step, x.dtype, *entry) for entry in self.preparation.rotations]
        context.frame = Frame(rotations, [ExactRing(step, slots) for slots in self.preparation.rings])
        kept = []
        for number, (block, layer_cache) in enumerate(zip(self._blocks, cache.layers, strict=True)):
            context.cache = layer_cache
            try:
                x = block(x, context)
            except (NotImplementedError, LookupError) as error:
                mixer = type(self._model.blocks[number].mixer).__name__
                raise CacheFailure(number, mixer, error) from error
            kept.append(context.cache)
        return self._logits(x), cache.after(step, kept)

    def static_logits(self, x: Tensor, frame: Frame, layers: tuple[LayerCache, ...]) -> Tensor:
        """The part of a step that is compiled: x [B, 1, d_model], the embedded tokens → logits [B, 1, V].

        Shapes and branches are the same at every position, and the layers' caches are written in place.
        """
        context = ForwardContext({}, {}, None, self._model.kernel, None, frame)
        for block, layer_cache in zip(self._blocks, layers, strict=True):
            context.cache = layer_cache
            x = block(x, context)
        return self._logits(x)

    def static_frame(self, step: Step, cache: Cache, dtype: torch.dtype) -> Frame:
        """The frame of `static_logits`: positions are in tensors, and slots without a token of the text are hidden."""
        rotations = [cache.rotation(step, dtype, *entry) for entry in self.preparation.rotations]
        return Frame(rotations, [self._static_ring(step, slots) for slots in self.preparation.rings])

    def _static_ring(self, step: Step, slots: int) -> StaticRing:
        device = step.positions.device
        seen = slots if slots < self.preparation.capacity else min(slots, -(-(step.at + 1) // BUCKET) * BUCKET)
        ages = (step.at - torch.arange(seen, device=device)) % slots
        starts = None if step.starts is None else step.starts[:, None]
        hidden = ages > step.at if starts is None else (ages > step.at - starts)[:, None, None]
        if slots == self.preparation.capacity:
            torch._dynamo.maybe_mark_dynamic(hidden, hidden.dim() - 1)
            torch._dynamo.maybe_mark_dynamic(ages, 0)
        return StaticRing(torch.tensor([step.at % slots], device=device), hidden, ages)

    def _logits(self, x: Tensor) -> Tensor:
        logits = self._head(self._final_norm(x), self._model.embedding.weight)
        return softcap(logits, self._model.architecture.softcap.final_cap)

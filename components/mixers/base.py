"""What mixes tokens in a layer: a component that is chosen, and the module that it builds.

Attention is one mixer (`components.attention.mixer`), gated linear attention another (`components.mixers.linear`). A
new one is a file like that, and a line in `components.catalogue`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from components.attention.slots import AttentionSlots
from components.cache import CacheTensor, LayerCache
from components.forward_context import ForwardContext
from components.position.positions import HeadPosition
from components.registry import Component
from components.stepping.preparation import Form, Preparation


class Mixer(Component, kind="mixer"):
    """What mixes tokens in a layer."""

    keeps_cache: ClassVar[bool] = True
    """Whether its module can continue a text from a cache (`MixerModule.cache_tensors`). A mixer that sets it to False
    is trained and measured on whole texts; generation from a cache refuses its models."""

    slots: ClassVar[tuple[str, ...]] = ()
    """Slots of the configuration that belong to this mixer, beside its own options: those of attention, or none."""

    @property
    def reads(self) -> tuple[str, ...]:
        """What it reads of the attention slots: their names, or dotted paths such as `heads.n_heads`."""
        return self.slots

    def resolve(self, slots: AttentionSlots, kind: str) -> Mixer:
        """The mixer of one kind of layers, every option decided.

        Args:
            slots: what the configuration says of attention for layers of this kind.
            kind: the layer kind.
        Raises:
            OptionError: the configuration lacks something, or parts of it don't go together.
        """
        return self

    @property
    def positions(self) -> tuple[HeadPosition, ...]:
        """The positions that the built module looks up in its forward context; of a resolved mixer."""
        return ()

    def build(self, d_model: int) -> MixerModule:
        """The module, of a resolved mixer."""
        raise NotImplementedError


class MixerModule(nn.Module, ABC):
    """A built mixer, causal: what a token gets depends on itself and earlier tokens alone."""

    @abstractmethod
    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        """x [B, T, d_model] → [B, T, d_model].

        Where `context.step` is given, x are the next tokens of texts, `context.cache` holds what this mixer keeps of
        the earlier ones, and the mixer puts a `LayerCache` of what it keeps now in its place.
        """

    def cache_tensors(self, capacity: int, dtype: torch.dtype) -> dict[str, CacheTensor]:
        """What it keeps of one text of up to `capacity` tokens, in a model whose weights have that dtype, by name.

        A module needs this method unless its `Mixer` has `keeps_cache = False`; it is then never called.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cache_tensors")

    @abstractmethod
    def flops_per_token(self, context: int) -> float:
        """FLOPs of a mean token of a context of that length, without those of the modules that it is made of."""

    @property
    @abstractmethod
    def reach(self) -> int | None:
        """How many tokens a token hears of, its own included; None for all earlier ones."""

    def prepared(self, preparation: Preparation) -> Form | None:
        """Its form for one new token, called like `forward` (see `components.stepping.preparation`).

        A form reads `context.frame` in place of `context.step` and writes into the tensors of `context.cache` in place.
        It can be compiled: shapes and branches are the same at every position. None where there is none: the module
        is then called as it is, and no step of the model is compiled.
        """
        return None

    @property
    def reads_by_products(self) -> bool:
        """Whether it reads its input by matrix products alone, so that autocast may round the input before."""
        return False

    @property
    def flops_per_pair(self) -> float:
        """FLOPs of one query with one key, for mixers that compare pairs; 0 for others."""
        return 0.0

    def new_cache(self, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> LayerCache:
        """What it keeps of a batch of texts before their first tokens."""
        return LayerCache.empty(self.cache_tensors(capacity, dtype), batch, device)

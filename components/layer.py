"""One layer of a model, every slot decided: a mixer and an MLP, and how they join the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

from components.attention.mixer import ResolvedAttention
from components.mixers.base import Mixer, MixerModule
from components.mlp import MLP
from components.norm import Norm
from components.residual import Block, Residual


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        kind: its name in the pattern.
        mixer: what mixes its tokens, resolved: with all that it takes from the configuration.
    """

    kind: str
    mixer: Mixer
    norm: Norm
    residual: Residual
    mlp: MLP

    @property
    def attention(self) -> ResolvedAttention | None:
        """Its attention; None for a layer that does not attend."""
        return self.mixer if isinstance(self.mixer, ResolvedAttention) else None

    def build(self, d_model: int) -> Block:
        """The block, without initial values."""
        mixer = self.mixer.build(d_model)
        if not isinstance(mixer, MixerModule):
            raise TypeError(f"mixer={self.mixer.name}: build must return a components.mixers.base.MixerModule")
        if self.mixer.keeps_cache and type(mixer).cache_tensors is MixerModule.cache_tensors:
            raise TypeError(
                f"mixer={self.mixer.name}: {type(mixer).__name__} has no cache_tensors; add the method, or set "
                "`keeps_cache = False` in the mixer"
            )
        if not self.mixer.keeps_cache and type(mixer).cache_tensors is not MixerModule.cache_tensors:
            raise TypeError(
                f"mixer={self.mixer.name}: keeps_cache is False, but {type(mixer).__name__} has cache_tensors; remove "
                "one of the two, or set `cache_tensors = MixerModule.cache_tensors` if the module inherits the method"
            )
        return self.residual.build(d_model, mixer, self.mlp.build(d_model), lambda: self.norm.build(d_model))

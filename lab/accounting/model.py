"""The modules of an architecture, built on the meta device to read their costs.

Layers with equal configurations cost the same, so one of them is built and counted several times.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from components.architecture import Architecture
from components.decoder import Decoder
from components.mixers.base import MixerModule


@dataclass(frozen=True)
class CountedModule:
    """A module of a model, and the number of equal ones."""

    name: str
    module: nn.Module
    times: int


@dataclass(frozen=True)
class CountedMixer:
    """The mixer of a layer, and the number of equal layers.

    Attributes:
        kind: the layer kind.
    """

    kind: str
    module: MixerModule
    times: int


class ArchitectureKey:
    """An architecture as the key of a cache: equal configurations have equal keys."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def __hash__(self) -> int:
        return hash(self.architecture.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArchitectureKey) and self.architecture.text == other.architecture.text


@dataclass(frozen=True)
class CountedModel:
    """All modules of a model, and the mixers of its layers."""

    modules: list[CountedModule]
    mixers: list[CountedMixer]


def count(architecture: Architecture) -> CountedModel:
    """Build an architecture without values and count its modules."""
    with torch.device("meta"):
        model = Decoder(architecture, alike=True)
    times = Counter(module for block in model.blocks for module in block.modules())
    blocks = dict(zip(architecture.layers, model.blocks, strict=True))
    return CountedModel(
        modules=[CountedModule(name, module, times.get(module, 1)) for name, module in model.named_modules()],
        mixers=[CountedMixer(layer.kind, blocks[layer].mixer, n) for layer, n in Counter(architecture.layers).items()],
    )

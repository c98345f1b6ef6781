"""The windows of a model's local layers: which there are, and the same model with another one."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch

from components.architecture import Architecture
from components.decoder import Decoder
from components.registry import Component, OptionError

C = TypeVar("C", bound=Component)


def local_windows(architecture: Architecture) -> list[int]:
    """The windows of the layers that have one, the smallest first, each once."""
    return sorted({layer.window for layer in architecture.layers if layer.window is not None})


def with_window(architecture: Architecture, window: int) -> Architecture:
    """The architecture with that window in each of its local layers.

    Raises:
        OptionError: at `windows`: it has no local layer, or a span whose window no option sets.
    """
    if not local_windows(architecture):
        raise OptionError("windows", "no layer of the model has a window")
    kinds = {
        kind: {slot: _resized(each, window) if slot == "span" else each for slot, each in slots.items()}
        for kind, slots in architecture.kinds.items()
    }
    made = replace(architecture, span=_resized(architecture.span, window), kinds=kinds)
    if local_windows(made) != [window]:
        raise OptionError(
            "windows", f"span={architecture.span.name} has no option 'window' that sets it in every layer"
        )
    return made


def rebuilt(model: Decoder, architecture: Architecture) -> Decoder:
    """A model of another architecture with the very weights of this one, not a copy of them."""
    with torch.device("meta"):
        other = Decoder(architecture, model.kernel)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval().requires_grad_(False)


def _resized(span: C, window: int) -> C:
    return span.replace(window=window) if hasattr(span, "window") else span

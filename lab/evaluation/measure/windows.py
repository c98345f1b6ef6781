"""The windows of a model's local layers: which there are, and the same model with another one."""

from __future__ import annotations

from dataclasses import replace

import torch

from components.architecture import Architecture
from components.attention.span import Span
from components.decoder import Decoder
from components.registry import OptionError


def local_windows(architecture: Architecture) -> list[int]:
    """The windows of the layers that have one, the smallest first, each once."""
    attentions = (layer.attention for layer in architecture.layers)
    return sorted({a.window for a in attentions if a is not None and a.window is not None})


def with_window(architecture: Architecture, window: int) -> Architecture:
    """The architecture with that window in each of its local layers.

    Raises:
        OptionError: at `windows`: it has no local layer, or a span whose window no option sets.
    """
    if not local_windows(architecture):
        raise OptionError("windows", "no layer of the model has a window")
    kinds = {
        kind: {
            slot: component.with_window(window) if isinstance(component, Span) else component
            for slot, component in slots.items()
        }
        for kind, slots in architecture.kinds.items()
    }
    span = architecture.span
    made = replace(architecture, span=None if span is None else span.with_window(window), kinds=kinds)
    if local_windows(made) != [window]:
        name = "none" if span is None else span.name
        raise OptionError("windows", f"span={name} has no option 'window' that sets it in every layer")
    return made


def rebuilt(model: Decoder, architecture: Architecture) -> Decoder:
    """A model of another architecture with the very weights of this one, not a copy of them."""
    with torch.device("meta"):
        other = Decoder(architecture, model.kernel)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval().requires_grad_(False)

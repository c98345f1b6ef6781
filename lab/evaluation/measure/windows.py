"""The windows of a model's local layers, and how to change them."""

from __future__ import annotations

from dataclasses import replace

import torch

from components.architecture import Architecture
from components.attention.span import Span
from components.decoder import Decoder
from components.registry import OptionError


def local_windows(architecture: Architecture) -> list[int]:
    """The distinct windows of the local layers in tokens, ascending."""
    attentions = (layer.attention for layer in architecture.layers)
    return sorted({a.window for a in attentions if a is not None and a.window is not None})


def with_window(architecture: Architecture, window: int) -> Architecture:
    """The architecture with this window in every local layer.

    Raises:
        OptionError: at `windows`, if there is no local layer or the span has no option for the window.
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
    changed = replace(architecture, span=None if span is None else span.with_window(window), kinds=kinds)
    if local_windows(changed) != [window]:
        name = "none" if span is None else span.name
        raise OptionError("windows", f"span={name} has no option 'window' that sets it in every layer")
    return changed


def rebuild(model: Decoder, architecture: Architecture) -> Decoder:
    """A model of another architecture that shares the weights of this one."""
    with torch.device("meta"):
        other = Decoder(architecture, model.kernel)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval().requires_grad_(False)

"""Tiny instances of an architecture: every distinct layer kind once, the same options, and small sizes.

The lab's own components are made small by the names of their size options. Those of users keep their options, so that a
width may be too small for one; the next larger width is tried then, up to the real one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from components.architecture import Architecture
from components.registry import Component, OptionError

VOCABULARY = 16
WIDTHS = (16, 32, 64, 128, 256, 512)
_SIZES = {"d_ff": 24, "shared_d_ff": 20, "rope_dim": 4, "value_dim": 6, "kv_rank": 5, "q_rank": 7, "gate_rank": 4,
          "chunk": 4, "window": 4}  # fmt: skip
"""Option of one of the lab's components → the largest value that a tiny instance has."""
_HEAD_SIZES = (8, 16, 32, None)
"""Values of `head_dim` to try: rotary positions need some of them larger. None leaves the heads as they are."""


def tiny_architectures(architecture: Architecture) -> Iterator[Architecture]:
    """Tiny versions, the smallest first. The last one has the architecture's own width."""
    kinds = tuple(layer.kind for layer in dict.fromkeys(architecture.layers))
    slots = {name: part for name, part in architecture.components().items() if "." not in name}
    for head_dim in _HEAD_SIZES:
        changes: dict[str, Any] = {name: _small(component, head_dim) for name, component in slots.items()}
        changes["kinds"] = {
            kind: {slot: _small(component, head_dim) for slot, component in of_kind.items()}
            for kind, of_kind in architecture.kinds.items()
        }
        changes |= {"vocab_size": VOCABULARY, "n_layers": len(kinds), "pattern": kinds}
        for d_model in (*(width for width in WIDTHS if width < architecture.d_model), architecture.d_model):
            try:
                yield dataclasses.replace(architecture, d_model=d_model, **changes)
            except OptionError:
                continue


def _small(component: Component, head_dim: int | None) -> Component:
    """The component with small sizes, if it is one of the lab's; the options' relations stay as they are.

    Args:
        head_dim: the largest head; None leaves components with heads as they are.
    """
    if not type(component).__module__.startswith("components."):
        return component
    fields = dataclasses.fields(component)  # type: ignore[arg-type]
    values = {field.name: getattr(component, field.name) for field in fields}
    counts: dict[str, int] = {name: value for name, value in values.items() if type(value) is int}
    if head_dim is None and "n_heads" in counts:
        return component
    sizes = {name: min(value, _SIZES[name]) for name, value in counts.items() if name in _SIZES}
    if head_dim is not None and "head_dim" in counts:
        sizes["head_dim"] = min(counts["head_dim"], head_dim)
    if "n_heads" in counts:
        sizes |= _few_heads(counts["n_heads"], counts.get("n_kv_heads"))
    try:
        return component.replace(**sizes)
    except OptionError:
        return component


def _few_heads(heads: int, groups: int | None) -> dict[str, int]:
    """Few heads that share keys and values as the many do. A number that is no power of two stays none."""
    if groups is not None:
        few = min(groups, 2)
        return {"n_heads": few * min(heads // groups, 3), "n_kv_heads": few}
    return {"n_heads": min(heads, 2 if heads & (heads - 1) == 0 else 3)}

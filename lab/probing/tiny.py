"""Tiny instances of an architecture: every distinct layer kind once, the same options, and small sizes.

The lab's own components are made small by the names of their size options. Those of users keep their options, so that a
width may be too small for one; the next larger width is tried then, up to the real one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

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
    for head_dim in _HEAD_SIZES:
        slots = {
            name: component if head_dim is None and name == "heads" else _small(component, head_dim)
            for name, component in _slots(architecture).items()
        }
        overrides = {
            kind: {slot: _small(component, head_dim) for slot, component in of_kind.items()}
            for kind, of_kind in architecture.kinds.items()
        }
        for d_model in (*(width for width in WIDTHS if width < architecture.d_model), architecture.d_model):
            with_sizes = {"d_model": d_model, "vocab_size": VOCABULARY, "n_layers": len(kinds), "pattern": kinds}
            try:
                yield dataclasses.replace(architecture, **slots, kinds=overrides, **with_sizes)
            except OptionError:
                continue


def _slots(architecture: Architecture) -> Mapping[str, Component]:
    return {name: part for name, part in architecture.components().items() if "." not in name}


def _small(component: Component, head_dim: int | None) -> Component:
    """The component with small sizes, if it is one of the lab's; the options' relations stay as they are."""
    if not type(component).__module__.startswith("components."):
        return component
    values = {field.name: getattr(component, field.name) for field in dataclasses.fields(component)}  # type: ignore[arg-type]
    sizes = {name: min(value, _SIZES[name]) for name, value in values.items() if name in _SIZES and _is_count(value)}
    if head_dim is not None and _is_count(values.get("head_dim")):
        sizes["head_dim"] = min(values["head_dim"], head_dim)
    heads, groups = values.get("n_heads"), values.get("n_kv_heads")
    if _is_count(heads):
        of_each = min(heads // groups, 3) if _is_count(groups) else 1
        sharing = min(groups, 2) if _is_count(groups) else min(heads, 2 if heads & (heads - 1) == 0 else 3)
        sizes |= {"n_heads": of_each * sharing} | ({"n_kv_heads": sharing} if _is_count(groups) else {})
    try:
        return component.replace(**sizes)
    except OptionError:
        return component


def _is_count(value: object) -> bool:
    return type(value) is int

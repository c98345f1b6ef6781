"""Bytes of a key-value cache, from the configuration alone: what `components.cache` takes, layer kind by layer kind.

attention:  batch · min(context, window) · kv_heads · (key_size + value_size) · bytes of a number
latent:     batch · min(context, window) · (kv_rank + rope_dim) · bytes of a number
linear:     batch · n_heads · head_dim² · bytes of a number, of 4 at least, whatever the context
"""

from __future__ import annotations

from collections import Counter

import torch

from components.architecture import Architecture
from components.decoder import Decoder


def cache_bytes(architecture: Architecture, batch: int, context: int, dtype: torch.dtype) -> int:
    """Bytes that a cache of so many texts takes with room for `context` tokens each, in a dtype."""
    return sum(cache_bytes_by_kind(architecture, batch, context, dtype).values())


def cache_bytes_by_kind(architecture: Architecture, batch: int, context: int, dtype: torch.dtype) -> dict[str, int]:
    """The same by layer kind, summed over the layers of each kind."""
    with torch.device("meta"):
        model = Decoder(architecture, alike=True)
    layers = dict(zip(architecture.layers, model.layers, strict=True))
    found: dict[str, int] = {}
    for layer, times in Counter(architecture.layers).items():
        # What attends keeps numbers as they are; a state is summed into, so it has fp32 at least.
        kept = dtype if layer.attends else torch.promote_types(dtype, torch.float32)
        numbers = sum(
            module.cache_elements(context)  # type: ignore[operator]
            for module in layers[layer].modules()
            if hasattr(module, "cache_elements")
        )
        found[layer.kind] = found.get(layer.kind, 0) + times * batch * numbers * kept.itemsize
    return found

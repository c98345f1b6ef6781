"""Bytes of a cache, from the configuration alone: what the mixers say that they keep, layer kind by layer kind.

attention:  batch · min(context, window) · kv_heads · (key_size + value_size) · bytes of a number
latent:     batch · min(context, window) · (kv_rank + rope_dim) · bytes of a number
linear:     batch · n_heads · head_dim² · bytes of a number, of 4 at least, whatever the context
"""

from __future__ import annotations

import torch

from components.architecture import Architecture
from lab.accounting.model import count


def cache_bytes(architecture: Architecture, batch: int, context: int, dtype: torch.dtype) -> int:
    """Bytes that a cache of `batch` texts takes with room for `context` tokens each, in a dtype."""
    return sum(cache_bytes_by_kind(architecture, batch, context, dtype).values())


def cache_bytes_by_kind(architecture: Architecture, batch: int, context: int, dtype: torch.dtype) -> dict[str, int]:
    """The same by layer kind, summed over the layers of each kind."""
    by_kind: dict[str, int] = {}
    for mixer in count(architecture).mixers:
        kept = sum(tensor.bytes for tensor in mixer.module.cache_tensors(context, dtype).values())
        by_kind[mixer.kind] = by_kind.get(mixer.kind, 0) + mixer.times * batch * kept
    return by_kind

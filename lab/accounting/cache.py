"""The size of a cache, from the tensors that the mixers keep.

attention:  batch · min(context, window) · kv_heads · (key_size + value_size) · bytes of a number
latent:     batch · min(context, window) · (kv_rank + rope_dim) · bytes of a number
linear:     batch · n_heads · head_dim² · bytes of a number, at least 4; independent of the context
"""

from __future__ import annotations

import torch

from components.architecture import Architecture
from lab.accounting.model import count


def cache_bytes(architecture: Architecture, batch: int, context: int, dtype: torch.dtype) -> int:
    """Bytes of a cache for `batch` texts of up to `context` tokens each, in a dtype."""
    return sum(cache_bytes_by_kind(architecture, batch, context, dtype).values())


def cache_bytes_by_kind(architecture: Architecture, batch: int, context: int, dtype: torch.dtype) -> dict[str, int]:
    """Layer kind → bytes of the caches of its layers; see `cache_bytes`."""
    by_kind: dict[str, int] = {}
    for mixer in count(architecture).mixers:
        layer_bytes = sum(tensor.bytes for tensor in mixer.module.cache_tensors(context, dtype).values())
        by_kind[mixer.kind] = by_kind.get(mixer.kind, 0) + mixer.times * batch * layer_bytes
    return by_kind

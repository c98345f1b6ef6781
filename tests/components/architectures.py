"""Small architectures for tests, with options that bite: tight windows, low caps, unequal sizes."""

from __future__ import annotations

from typing import Any

from components.architecture import Architecture
from components.attention.heads import GQA
from components.attention.qk_norm import NoQKNorm
from components.attention.span import InterleavedSpan
from components.embedding import TiedEmbedding
from components.initialization import NormalInit
from components.mlp import GEGLU
from components.norm import ZeroCenteredRMSNorm
from components.position.positions import RoPE
from components.residual import Sandwich
from components.softcap import Gemma2Softcap


def gemma2(**changes: Any) -> Architecture:
    """Gemma 2 with 4 query heads over 2 key-value heads, a window of 5 and caps low enough to matter."""
    options: dict[str, Any] = {
        "vocab_size": 61,
        "d_model": 24,
        "n_layers": 4,
        "heads": GQA(n_heads=4, n_kv_heads=2, head_dim=8, query_pre_attn_scalar=6),
        "qk_norm": NoQKNorm(),
        "span": InterleavedSpan(window=5),
        "position": RoPE(),
        "softcap": Gemma2Softcap(attention=2.0, final=3.0),
        "norm": ZeroCenteredRMSNorm(),
        "residual": Sandwich(),
        "mlp": GEGLU(d_ff=40),
        "embedding": TiedEmbedding(scaled=True),
        "init": NormalInit(std=0.3),
    }
    return Architecture(**options | changes)

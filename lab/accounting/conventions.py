"""Training FLOPs a token as others count them, so that a figure from a paper or a log can be laid beside the lab's.

The lab counts what attention needs: the pairs of a query and a key that it sees. Others count the whole square of
pairs, or 6 FLOPs a parameter. Where a model is not of the kind that a formula was written for, it is taken so: N are
the active parameters, pairs are those of the layers that attend, a head's size is the mean of its key's and value's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

from components.architecture import Architecture
from components.embedding import TokenEmbedding, UntiedHead
from components.position.embedding import LearnedEmbedding
from lab.accounting.costs import BACKWARD_AND_FORWARD, Key, costs, modules, parameters


@dataclass(frozen=True)
class Convention:
    """A way to count.

    Attributes:
        title: a column's heading.
        counts: the formula in words. L layers that attend, H heads of size Q, T tokens of context, N parameters.
        used_by: where figures counted so are found.
    """

    title: str
    counts: str
    used_by: str


CONVENTIONS = {
    "visible": Convention(
        "visible\npairs",
        "matrix products, attention's over the pairs of a query and a key that it sees, × 3",
        "this lab: `flops_per_token`",
    ),
    "square": Convention(
        "full T²\nsquare",
        "the same with all T² pairs in every layer, whatever the mask and the window",
        "torch's FlopCounterMode on unmasked attention",
    ),
    "palm": Convention(
        "6N +\n12LHQT",
        "6 · N + 12 · L · H · Q · T; N has embeddings and head, not learned positions",
        "PaLM (2204.02311, appendix B), nanoGPT",
    ),
    "palm_without_embeddings": Convention(
        "same, no\nembedding",
        "6 · N + 12 · L · H · Q · T; N lacks the embedding table, and with it a tied head",
        "torchtitan, nanochat",
    ),
    "six_n": Convention(
        "6N",
        "6 · N; N has embeddings and head, not learned positions",
        "Chinchilla's C = 6 · N · D (2203.15556)",
    ),
    "six_n_without_embeddings": Convention(
        "6N, no\nembedding",
        "6 · N; N has neither embeddings nor an untied head",
        "Kaplan et al. (2001.08361)",
    ),
}


def conventions(architecture: Architecture, context: int) -> dict[str, float]:
    """FLOPs a trained token, forward and backward, by the keys of CONVENTIONS.

    Raises:
        RequestError: a module has a matrix whose FLOPs nothing accounts for.
    """
    return dict(_conventions(Key(architecture), context))


@lru_cache(maxsize=4096)
def _conventions(key: Key, context: int) -> tuple[tuple[str, float], ...]:
    found = modules(key.architecture)
    own = costs(key.architecture, context).flops_per_token
    attending: list[tuple[int, Any]] = [(n, module) for _, module, n in found if hasattr(module, "flops_per_key")]
    square = BACKWARD_AND_FORWARD * sum(n * module.flops_per_key() * context for n, module in attending)
    visible = BACKWARD_AND_FORWARD * sum(n * module.flops_per_token(context) for n, module in attending)
    _, active = parameters(found)
    with_embeddings = active - _held_by(found, LearnedEmbedding)
    without = with_embeddings - _held_by(found, TokenEmbedding)
    return (
        ("visible", own),
        ("square", own - visible + square),
        # 2 · H · (Q + Q) a pair, T pairs a token, three times: 12 · H · Q · T.
        ("palm", 6.0 * with_embeddings + square),
        ("palm_without_embeddings", 6.0 * without + square),
        ("six_n", 6.0 * with_embeddings),
        ("six_n_without_embeddings", 6.0 * (without - _held_by(found, UntiedHead))),
    )


def _held_by(found: Iterable[tuple[str, nn.Module, int]], kind: type[nn.Module]) -> int:
    """Parameters of the modules of a kind, all that they hold."""
    own = [module for _, module, _ in found if isinstance(module, kind)]
    return sum(parameter.numel() for module in own for parameter in module.parameters())

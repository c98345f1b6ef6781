"""Training FLOPs a token as others count them, to compare the lab's figures with those of a paper or a log.

The lab counts what attention needs: the pairs of a query and a key that it sees. Others count the whole square of
pairs, or 6 FLOPs a parameter. For a model that a formula was not written for, N are the active parameters, pairs are
those of the layers that attend, and a head's size is the mean of its key's and value's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from torch import nn

from components.architecture import Architecture
from components.embedding import TokenEmbedding, UntiedHead
from components.position.embedding import LearnedEmbedding
from lab.accounting.costs import BACKWARD_AND_FORWARD, costs, parameters
from lab.accounting.model import ArchitectureKey, CountedModule, count


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
    return dict(_conventions(ArchitectureKey(architecture), context))


@lru_cache(maxsize=4096)
def _conventions(key: ArchitectureKey, context: int) -> tuple[tuple[str, float], ...]:
    model = count(key.architecture)
    own = costs(key.architecture, context).flops_per_token
    comparing = [mixer for mixer in model.mixers if mixer.module.flops_per_pair]
    square = BACKWARD_AND_FORWARD * sum(m.times * m.module.flops_per_pair * context for m in comparing)
    visible = BACKWARD_AND_FORWARD * sum(m.times * m.module.flops_per_token(context) for m in comparing)
    _, active = parameters(model.modules)
    with_embeddings = active - _held_by(model.modules, LearnedEmbedding)
    without = with_embeddings - _held_by(model.modules, TokenEmbedding)
    return (
        ("visible", own),
        ("square", own - visible + square),
        # 2 · H · (Q + Q) a pair, T pairs a token, three times: 12 · H · Q · T.
        ("palm", 6.0 * with_embeddings + square),
        ("palm_without_embeddings", 6.0 * without + square),
        ("six_n", 6.0 * with_embeddings),
        ("six_n_without_embeddings", 6.0 * (without - _held_by(model.modules, UntiedHead))),
    )


def _held_by(modules: Iterable[CountedModule], kind: type[nn.Module]) -> int:
    """Parameters of the modules of a kind, all that they hold."""
    held = [counted.module for counted in modules if isinstance(counted.module, kind)]
    return sum(parameter.numel() for module in held for parameter in module.parameters())

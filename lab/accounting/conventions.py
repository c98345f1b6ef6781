"""Training FLOPs per token by several conventions, to compare the lab's figures with those of a paper or a log.

The lab counts the visible pairs of a query and a key. Other conventions count all pairs, or 6 FLOPs per parameter. For
models that a formula wasn't written for: N is the number of active parameters, pairs are counted in layers with
attention, and the size of a head is the mean of its key's and its value's size.
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
    """A way to count FLOPs.

    Attributes:
        title: heading of its column.
        counts: the formula in words, with L layers with attention, H heads of size Q, T tokens of context and N
            parameters.
        used_by: papers and programs that use it.
    """

    title: str
    counts: str
    used_by: str


CONVENTIONS = {
    "visible": Convention(
        "visible\npairs",
        "matrix products, those of attention over the visible pairs of a query and a key, × 3",
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
    """FLOPs per trained token, forward and backward, by the keys of CONVENTIONS.

    Raises:
        RequestError: a module has a matrix whose FLOPs nothing accounts for.
    """
    return dict(_conventions(ArchitectureKey(architecture), context))


@lru_cache(maxsize=4096)
def _conventions(key: ArchitectureKey, context: int) -> tuple[tuple[str, float], ...]:
    model = count(key.architecture)
    own = costs(key.architecture, context).flops_per_token
    attending = [mixer for mixer in model.mixers if mixer.module.flops_per_pair]
    square = BACKWARD_AND_FORWARD * sum(m.times * m.module.flops_per_pair * context for m in attending)
    visible = BACKWARD_AND_FORWARD * sum(m.times * m.module.flops_per_token(context) for m in attending)
    _, active = parameters(model.modules)
    with_embeddings = active - _parameters_of(model.modules, LearnedEmbedding)
    without = with_embeddings - _parameters_of(model.modules, TokenEmbedding)
    return (
        ("visible", own),
        ("square", own - visible + square),
        # 2 · H · (Q + Q) per pair, T pairs per token, times 3: 12 · H · Q · T.
        ("palm", 6.0 * with_embeddings + square),
        ("palm_without_embeddings", 6.0 * without + square),
        ("six_n", 6.0 * with_embeddings),
        ("six_n_without_embeddings", 6.0 * (without - _parameters_of(model.modules, UntiedHead))),
    )


def _parameters_of(modules: Iterable[CountedModule], kind: type[nn.Module]) -> int:
    """The number of parameters in the modules of a kind."""
    matches = [counted.module for counted in modules if isinstance(counted.module, kind)]
    return sum(parameter.numel() for module in matches for parameter in module.parameters())

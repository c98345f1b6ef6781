"""Parameters, FLOPs and key-value bytes of an architecture, from its configuration alone (built on the meta device).

FLOPs are those of matrix products (a multiply-add is two), causal and windowed attention counted as the keys that are
visible, experts as those that a token goes through, the head included, the embedding look-up free. Training takes
three times the forward pass: the backward pass has two products for each of the forward's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import nn

from components.architecture import Architecture
from components.counting import CountsFlops, HasIdleParameters
from components.embedding import TokenEmbedding
from lab.accounting.model import ArchitectureKey, CountedModule, count
from lab.refusals import RequestError

BACKWARD_AND_FORWARD = 3
"""A training step's FLOPs in forward passes: each product y = x · W has two in the backward pass, for x and for W."""


@dataclass(frozen=True)
class Costs:
    """What an architecture costs at a context length.

    Attributes:
        parameters: all trained numbers; a tied head counts once.
        active_parameters: those that a token meets: all but those of the experts that are not chosen for it.
        embedding_parameters: those of the input embedding table.
        forward_flops_per_token: of one forward pass, mean over the tokens of a context.
        flops_per_token: of training: forward and backward.
        kv_bytes_per_token: bytes of a key-value cache (16-bit) that holds the context, divided by the context.
    """

    parameters: int
    active_parameters: int
    embedding_parameters: int
    forward_flops_per_token: float
    flops_per_token: float
    kv_bytes_per_token: float

    def as_dict(self) -> dict[str, int | float]:
        return asdict(self)


KV_ELEMENT_BYTES = 2


def costs(architecture: Architecture, context: int) -> Costs:
    """Costs of an architecture for sequences of `context` tokens.

    Raises:
        RequestError: a module has a matrix whose FLOPs nothing accounts for.
    """
    return _costs(ArchitectureKey(architecture), context)


def parameters(modules: Iterable[CountedModule]) -> tuple[int, int]:
    """All of the modules' parameters, and how many of them a token meets."""
    sizes: dict[nn.Parameter, int] = {}
    idle = 0
    for counted in modules:
        own = counted.module.parameters(recurse=False)
        sizes |= {parameter: counted.times * parameter.numel() for parameter in own}
        if isinstance(counted.module, HasIdleParameters):
            idle += counted.times * counted.module.idle_parameters()
    total = sum(sizes.values())
    return total, total - idle


@lru_cache(maxsize=4096)
def _costs(key: ArchitectureKey, context: int) -> Costs:
    model = count(key.architecture)
    forward = sum(counted.times * _flops(counted, context) for counted in model.modules)
    cached = sum(
        mixer.times * tensor.numbers
        for mixer in model.mixers
        for tensor in mixer.module.cache_tensors(context, torch.bfloat16).values()
    )
    total, active = parameters(model.modules)
    tables = [counted.module.weight for counted in model.modules if isinstance(counted.module, TokenEmbedding)]
    return Costs(
        parameters=total,
        active_parameters=active,
        embedding_parameters=sum(table.numel() for table in tables),
        forward_flops_per_token=forward,
        flops_per_token=BACKWARD_AND_FORWARD * forward,
        kv_bytes_per_token=cached * KV_ELEMENT_BYTES / context,
    )


def _flops(counted: CountedModule, context: int) -> float:
    """FLOPs of a mean token in a module itself, without the modules that it is made of."""
    module = counted.module
    if isinstance(module, CountsFlops):
        return float(module.flops_per_token(context))
    if isinstance(module, nn.Linear):
        return 2.0 * module.in_features * module.out_features
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() > 1:
            raise RequestError(
                f"{type(module).__name__} ({counted.name}) has a matrix '{name}' but no flops_per_token(context): "
                "its cost can't be counted",
                kind="unsupported",
            )
    return 0.0

"""Parameters, FLOPs and key-value bytes of an architecture, from its configuration alone (built on the meta device).

FLOPs are those of matrix products, where a multiply-add counts as two. Attention counts the visible keys, experts count
if a token goes through them, the head counts, and the embedding lookup is free. Training counts as three forward
passes: the backward pass has two products for each of the forward pass.
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
from lab.accounting.model import ArchitectureKey, CountedModel, CountedModule, count
from lab.refusals import RequestError

BACKWARD_AND_FORWARD = 3
"""FLOPs of training over those of its forward pass: a product y = x · W has two in the backward pass, for x and W."""


@dataclass(frozen=True)
class Costs:
    """What an architecture costs at a context length.

    Attributes:
        parameters: number of trained values; a tied head counts once.
        active_parameters: parameters that a token uses: without those of experts that aren't chosen for it.
        embedding_parameters: of the input embedding table.
        forward_flops_per_token: of one forward pass, averaged over the tokens of a context.
        flops_per_token: of training, forward and backward.
        kv_bytes_per_token: bytes of a 16-bit cache of the whole context, divided by the context; None if a mixer keeps
            no cache.
    """

    parameters: int
    active_parameters: int
    embedding_parameters: int
    forward_flops_per_token: float
    flops_per_token: float
    kv_bytes_per_token: float | None

    def as_dict(self) -> dict[str, int | float]:
        """The costs by name, without one that the architecture doesn't have."""
        return {name: value for name, value in asdict(self).items() if value is not None}


KV_ELEMENT_BYTES = 2


def costs(architecture: Architecture, context: int) -> Costs:
    """The costs of an architecture for sequences of `context` tokens.

    Raises:
        RequestError: a module has a matrix whose FLOPs nothing accounts for.
    """
    return _costs(ArchitectureKey(architecture), context)


def parameters(modules: Iterable[CountedModule]) -> tuple[int, int]:
    """The number of all parameters of the modules, and of the active ones."""
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
    total, active = parameters(model.modules)
    tables = [counted.module.weight for counted in model.modules if isinstance(counted.module, TokenEmbedding)]
    return Costs(
        parameters=total,
        active_parameters=active,
        embedding_parameters=sum(table.numel() for table in tables),
        forward_flops_per_token=forward,
        flops_per_token=BACKWARD_AND_FORWARD * forward,
        kv_bytes_per_token=None if key.architecture.mixers_without_cache else _kv_bytes_per_token(model, context),
    )


def _kv_bytes_per_token(model: CountedModel, context: int) -> float:
    numbers = sum(
        mixer.times * tensor.numbers
        for mixer in model.mixers
        for tensor in mixer.module.cache_tensors(context, torch.bfloat16).values()
    )
    return numbers * KV_ELEMENT_BYTES / context


def _flops(counted: CountedModule, context: int) -> float:
    """Average FLOPs per token in the module itself, without its submodules."""
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

"""Parameters, FLOPs and key-value bytes of an architecture, from its configuration alone (built on the meta device).

FLOPs are those of matrix products (a multiply-add is two), causal and windowed attention counted as the keys that are
visible, experts as those that a token goes through, the head included, the embedding look-up free. Training takes
three times the forward pass: the backward pass has two products for each of the forward's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import nn

from components.architecture import Architecture
from components.decoder import Decoder
from components.embedding import TokenEmbedding
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
    return _costs(Key(architecture), context)


class Key:
    """An architecture as a cache key: equal configurations are one."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def __hash__(self) -> int:
        return hash(self.architecture.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.architecture.text == other.architecture.text


def modules(architecture: Architecture) -> list[tuple[str, nn.Module, int]]:
    """Name, module without its values, and how many there are of it.

    Layers that are configured alike cost the same: each is built, and looked through, once.
    """
    with torch.device("meta"):
        model = Decoder(architecture, alike=True)
    times = Counter(module for layer in model.layers for module in layer.modules())
    return [(name, module, times.get(module, 1)) for name, module in model.named_modules()]


def parameters(found: Iterable[tuple[str, nn.Module, int]]) -> tuple[int, int]:
    """All of the modules' parameters, and those of them that a token meets."""
    sizes: dict[nn.Parameter, int] = {}
    idle = 0
    for _, module, n in found:
        sizes |= {parameter: n * parameter.numel() for parameter in module.parameters(recurse=False)}
        idle += n * _idle(module)
    every = sum(sizes.values())
    return every, every - idle


@lru_cache(maxsize=4096)
def _costs(key: Key, context: int) -> Costs:
    found = modules(key.architecture)
    forward = sum(n * _flops(name, module, context) for name, module, n in found)
    cached = sum(n * _cached(module, context) for _, module, n in found)
    every, active = parameters(found)
    return Costs(
        parameters=every,
        active_parameters=active,
        embedding_parameters=sum(m.weight.numel() for _, m, _ in found if isinstance(m, TokenEmbedding)),
        forward_flops_per_token=forward,
        flops_per_token=BACKWARD_AND_FORWARD * forward,
        kv_bytes_per_token=cached * KV_ELEMENT_BYTES / context,
    )


def _cached(module: nn.Module, context: int) -> int:
    """Numbers that a module keeps of a context in order to go on from it."""
    own: Callable[[int], int] | None = getattr(module, "cache_elements", None)
    return 0 if own is None else own(context)


def _idle(module: nn.Module) -> int:
    """Parameters of a module itself that a token does not meet."""
    own: Callable[[], int] | None = getattr(module, "idle_parameters", None)
    return 0 if own is None else own()


def _flops(name: str, module: nn.Module, context: int) -> float:
    """FLOPs a token of a module itself, without its children."""
    own = getattr(module, "flops_per_token", None)
    if own is not None:
        return float(own(context))
    if isinstance(module, nn.Linear):
        return 2.0 * module.in_features * module.out_features
    for parameter_name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() > 1:
            raise RequestError(
                f"{type(module).__name__} ({name}) has a matrix '{parameter_name}' but no flops_per_token(context): "
                "its cost can't be counted"
            )
    return 0.0

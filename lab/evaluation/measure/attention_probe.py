"""What attention layers look at: their kernels' inputs, as a forward pass of the whole model makes them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from components.architecture import Architecture
from components.attention.mixer import Attention
from components.attention.spec import AttentionInputs, AttentionSpec
from components.decoder import Decoder
from lab.refusals import RequestError

See = Callable[[int, AttentionSpec, AttentionInputs], None]
"""Called with a layer's number, from 0, and what its kernel computes of what."""

SCORES_AT_ONCE = 1 << 24
"""Scores of queries and keys that are held at a time, over all texts of a batch and heads."""


def attending(architecture: Architecture) -> list[int]:
    """The numbers of the layers that attend, from 0."""
    return [number for number, layer in enumerate(architecture.layers) if layer.attention is not None]


@contextmanager
def watched(model: Decoder, see: See) -> Iterator[None]:
    """While open, each attention layer tells in a forward pass over whole texts what its kernel was given.

    Raises:
        RequestError: a layer that attends isn't one whose inputs can be asked for.
    """
    with ExitStack() as stack:
        for number in attending(model.architecture):
            found = [module for module in model.layers[number].modules() if isinstance(module, Attention)]
            if len(found) != 1:
                name = model.architecture.layers[number].mixer.name
                raise RequestError(
                    f"layer {number}: mixer={name} attends by a module of its own, which can't be watched"
                )
            hook = found[0].register_forward_hook(functools.partial(_tell, see, number), with_kwargs=True)
            stack.callback(hook.remove)
        yield


def _tell(see: See, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Tensor) -> None:
    assert isinstance(layer, Attention)
    see(number, layer.spec, layer.inputs(*args, **kwargs))


def in_blocks(inputs: AttentionInputs) -> Iterator[AttentionInputs]:
    """The same call a block of queries at a time, so that no more than SCORES_AT_ONCE scores need be held."""
    batch, heads, queries, _ = inputs.q.shape
    size = max(1, SCORES_AT_ONCE // (batch * heads * inputs.k.shape[2]))
    for start in range(0, queries, size):
        yield replace(inputs, q=inputs.q[:, :, start : start + size], offset=inputs.offset + start)

"""Observe the inputs of attention kernels in a forward pass of the model."""

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

Observer = Callable[[int, AttentionSpec, AttentionInputs], None]
"""Called with the number of a layer, from 0, its attention spec, and the inputs of its kernel."""

SCORES_AT_ONCE = 1 << 24
"""Maximum number of attention scores in memory at a time, over a batch and all heads."""


def attention_layers(architecture: Architecture) -> list[int]:
    """The numbers of the layers that attend, from 0."""
    return [number for number, layer in enumerate(architecture.layers) if layer.attention is not None]


@contextmanager
def watch_attention(model: Decoder, observe: Observer) -> Iterator[None]:
    """Call `observe` for each attention layer in every forward pass within the context.

    Raises:
        RequestError: a layer attends with a custom module, whose inputs are not known.
    """
    with ExitStack() as stack:
        for number in attention_layers(model.architecture):
            modules = [module for module in model.layers[number].modules() if isinstance(module, Attention)]
            if len(modules) != 1:
                name = model.architecture.layers[number].mixer.name
                raise RequestError(
                    f"layer {number}: mixer={name} attends with a custom module, which can't be observed"
                )
            hook = modules[0].register_forward_hook(functools.partial(_notify, observe, number), with_kwargs=True)
            stack.callback(hook.remove)
        yield


def _notify(
    observe: Observer, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Tensor
) -> None:
    assert isinstance(layer, Attention)
    observe(number, layer.spec, layer.inputs(*args, **kwargs))


def query_blocks(inputs: AttentionInputs) -> Iterator[AttentionInputs]:
    """Split the inputs into blocks of queries with at most SCORES_AT_ONCE scores each."""
    batch, heads, queries, _ = inputs.q.shape
    size = max(1, SCORES_AT_ONCE // (batch * heads * inputs.k.shape[2]))
    for start in range(0, queries, size):
        yield replace(inputs, q=inputs.q[:, :, start : start + size], offset=inputs.offset + start)

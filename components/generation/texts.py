"""Generates text from a decoder, token by token."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from components.compilation import Compile
from components.decoder import Decoder
from components.generation.forward import CachedForward, FullForward, NextLogits
from components.generation.prepared import PREPARE_FROM, PreparedForward
from components.generation.sampling import Sampling, drawn
from components.registry import OptionError


def generate(
    model: Decoder,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling,
    *,
    stop: Collection[int] = (),
    cached: bool = True,
    compile: Compile = "auto",
) -> Iterator[int]:
    """The tokens that continue a prompt, one by one: `generate_batch` with one prompt."""
    steps = continuations(model, [prompt], max_tokens, sampling, stop=stop, cached=cached, compile=compile)
    return (token for (token,) in steps if token is not None)


def generate_batch(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    sampling: Sampling,
    *,
    stop: Collection[int] = (),
    cached: bool = True,
    compile: Compile = "auto",
) -> list[list[int]]:
    """The tokens that continue each prompt, up to and including the first token of `stop`."""
    steps = list(continuations(model, prompts, max_tokens, sampling, stop=stop, cached=cached, compile=compile))
    return [[token for step in steps if (token := step[row]) is not None] for row in range(len(prompts))]


def continuations(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    sampling: Sampling,
    *,
    stop: Collection[int] = (),
    cached: bool = True,
    compile: Compile = "auto",
) -> Iterator[list[int | None]]:
    """The next token of each prompt, step by step; None for one that has ended with a token of `stop`.

    The same prompts, sampling and weights give the same tokens on the same machine. Each prompt has random numbers of
    its own, the same for all, so that what it becomes doesn't depend on the others. The model should be in evaluation
    mode.

    Args:
        cached: keep what layers need of earlier tokens, in place of passes over the whole text.
        compile: whether to compile the passes over one new token; `auto` does if their number repays it. Compiled
            passes differ from others in the last bits.
    Raises:
        ValueError: a prompt is empty, a text would outgrow the model's positions, or a layer can't be cached; while it
            goes on, if the model's logits are not finite, or if `compile` is `on` and that isn't possible.
    """
    if not prompts or not all(prompts):
        raise ValueError("a prompt has at least one token")
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    limit, longest = model.architecture.max_context, max(map(len, prompts))
    if limit is not None and longest + max_tokens > limit:
        raise ValueError(
            f"{longest:,} tokens of prompt and {max_tokens:,} more are beyond the model's {limit:,} positions"
        )
    if compile == "on" and not cached:
        raise OptionError("compile", "on has no effect without a cache")
    text: NextLogits = cached_forward(model, max_tokens - 1, compile) if cached else FullForward(model)
    return _continue(text, prompts, max_tokens, sampling, frozenset(stop))


def cached_forward(model: Decoder, room: int, compile: Compile = "auto") -> CachedForward:
    """What generation uses to append up to `room` tokens: joined weights and compilation where they pay off."""
    return PreparedForward(model, compile) if room >= PREPARE_FROM or compile == "on" else CachedForward(model)


def _continue(
    text: NextLogits, prompts: Sequence[Sequence[int]], max_tokens: int, sampling: Sampling, stop: frozenset[int]
) -> Iterator[list[int | None]]:
    # On the CPU, so that the draws are the same on every device.
    generators = [torch.Generator().manual_seed(sampling.seed) for _ in prompts]
    ended = [False] * len(prompts)
    newest: Tensor | None = None
    for _ in range(max_tokens):
        with torch.inference_mode():
            # The last token needs no slot, as no token follows it.
            logits = text.begin(prompts, max_tokens - 1) if newest is None else text.extend(newest)
            newest = drawn(logits, sampling, generators)
        tokens = newest.tolist()
        yield [None if over else token for over, token in zip(ended, tokens, strict=True)]
        ended = [over or token in stop for over, token in zip(ended, tokens, strict=True)]
        if all(ended):
            return

"""Whether decoding from a cache gives what a pass over the whole text gives, in each part of a model.

Texts go through in chunks and token by token, and one of two texts is shorter, so that it stands behind padding. What a
part puts out is compared part by part, so that the first one that differs is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.probing.fault import Fault, ProbeFailure, described, size
from lab.probing.instance import PADDING, Call, Instance

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3}
"""The largest difference that is a matter of rounding, as a share of the largest output."""


@dataclass(frozen=True)
class _Difference:
    """Where a part's output over a cache differs from its output in a whole pass: position in the text, and how far."""

    position: int
    by: float


def faults_of_decoding(instance: Instance, tokens: Tensor) -> list[Fault]:
    """The first part whose output over a cache is another one; tokens [1, T], and the model in evaluation mode."""
    whole = instance.calls(tokens)
    context = tokens.shape[1]
    ways = {
        "token by token": ([1] * context, 0),
        "in chunks": (_chunks(context, 0), 0),
        "behind padding, in a batch of texts of different lengths": (_chunks(context, PADDING), PADDING),
    }
    for way, (chunks, padding) in ways.items():
        try:
            cached = _cached(instance, tokens, chunks, padding)
        except ProbeFailure as failure:
            fault = failure.fault
            detail = fault.problem if failure.error is None else described(failure.error)
            problem = f"fails over a cache, {way}: {detail}"
            fix = "a mixer that keeps no cache says so with keeps_cache = False" if "mixer" in fault.slots else None
            return [Fault("cache", fault.slots, fault.kind, fault.module, problem, fix)]
        for number, call in enumerate(whole):
            difference = _difference(call.output[0], torch.cat([calls[number].output[-1] for calls in cached]), padding)
            if difference is not None:
                problem = (
                    f"decodes otherwise from its cache, {way}: its output at position {difference.position} differs by "
                    f"{size(difference.by)} from that of a pass over the whole text"
                )
                return [call.part.fault("cache", problem)]
    return []


@torch.no_grad()
def _cached(instance: Instance, tokens: Tensor, chunks: Sequence[int], padding: int) -> list[list[Call]]:
    """The calls of each chunk. With padding the text stands in the second row, and the first has a longer one."""
    if padding:
        longer = torch.cat([tokens[:, :padding], tokens], dim=1).roll(1)
        tokens = torch.cat([longer, torch.cat([torch.zeros_like(tokens[:, :padding]), tokens], dim=1)])
    starts = [0, padding] if padding else [0]
    calls = []
    begin = 0
    with instance.recorded() as recorded:
        cache = instance.model.new_cache(tokens.shape[1] + 1, starts)
        for chunk in chunks:
            recorded.clear()
            _, cache = instance.model.continued(tokens[:, begin : begin + chunk], cache)
            calls.append(list(recorded))
            begin += chunk
    return calls


def _chunks(context: int, padding: int) -> list[int]:
    """Sizes of the chunks that a text is cut into, padding before the first: one of several tokens, one, then more."""
    first = max(1, context // 3)
    sizes = [first + padding, 1, 2]
    while (rest := context + padding - sum(sizes)) > 0:
        sizes.append(max(1, rest - 1))
    return sizes if sum(sizes) == context + padding else [1 + padding, *[1] * (context - 1)]


def _difference(whole: Tensor, cached: Tensor, padding: int) -> _Difference | None:
    """[T, d] against [padding + T, d]."""
    change = (cached[padding:] - whole).abs().amax(-1)
    least = _TOLERANCE.get(whole.dtype, 2e-3) * max(1e-3, float(whole.abs().max()))
    wrong = ~(change <= least)
    return _Difference(int(wrong.long().argmax()), float(change[wrong][0])) if wrong.any() else None

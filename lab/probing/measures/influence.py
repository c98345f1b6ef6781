"""What a part's output depends on, measured: one input is changed at a time, and the outputs that change are read.

Row i of a batch has its input changed at the place `places[i]`. So one call measures every place, and what changes at a
time before the place has heard of the future.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from components.decoder import Decoder
from lab.probing.fault import Fault, size
from lab.probing.instance import SEED, Call, Instance, Part

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 3e-4}
"""The largest change that is a matter of rounding, as a share of the largest output."""
MOST_PLACES = 24


@dataclass(frozen=True)
class Influence:
    """How much outputs change.

    Attributes:
        places: [P] where the input of each row was changed.
        change: [P, T] largest change of a row's output at each time, 0 where it is a matter of rounding.
    """

    places: Tensor
    change: Tensor

    @property
    def distance(self) -> Tensor:
        """How long after the change each output stands: [P, T]."""
        return torch.arange(self.change.shape[1]) - self.places[:, None]

    def largest(self, where: Tensor) -> tuple[int, int, float] | None:
        """(place, time, change) of the largest change among some [P, T]; None where there is none."""
        among = self.change * where
        row, time = divmod(int(among.argmax()), among.shape[1])
        return (int(self.places[row]), time, float(among[row, time])) if among[row, time] > 0 else None


def places(context: int) -> Tensor:
    """The places to change, one a row: all, or as many as there are rows for, both ends among them."""
    return torch.linspace(0, context - 1, min(context, MOST_PLACES)).round().long()


def faults_of_part(call: Call, documents: Tensor | None) -> list[Fault]:
    """What a part does that it must not, in one pass in which its rows were as many as `places`.

    Args:
        documents: [T] ids, where the pass had documents; what crosses them is all that is measured then.
    """
    part, base = call.part, call.again(call.x)
    if not torch.equal(base, call.again(call.x)):
        problem = "gives two outputs for one input: it draws random numbers outside of torch, or keeps state"
        return [part.fault("state", problem)]
    mixed = _across_rows(call, base)
    if mixed is not None:
        return [mixed]
    at = places(call.x.shape[1])
    influence = Influence(at, _changes(base, call.again(_changed(call.x, at))))
    return list(_faults(part, influence, documents))


def faults_of_model(instance: Instance, tokens: Tensor, documents: Tensor | None, part: Part) -> list[Fault]:
    """The same for the whole model, tokens [P, T] in, logits out; for what stands between its parts."""
    at = places(tokens.shape[1])
    rows = torch.arange(len(at))
    other = tokens.clone()
    other[rows, at] = (tokens[rows, at] + 1) % instance.architecture.vocab_size
    ids = None if documents is None else documents.expand(len(at), -1)
    before, after = _logits(instance.model, tokens, ids), _logits(instance.model, other, ids)
    return list(_faults(part, Influence(at, _changes(before, after)), documents))


@torch.no_grad()
def _logits(model: Decoder, tokens: Tensor, documents: Tensor | None) -> Tensor:
    torch.default_generator.manual_seed(SEED)
    logits: Tensor = model(tokens, documents)
    return logits


def _faults(part: Part, influence: Influence, documents: Tensor | None) -> Iterator[Fault]:
    ahead = influence.largest(influence.distance < 0)
    behind = influence.distance > 0
    if documents is not None:
        crosses = documents[None, :] != documents[influence.places][:, None]
        if (change := influence.largest(behind & crosses)) is not None:
            place, time, by = change
            problem = (
                f"mixes documents: its output at position {time} changes by {size(by)} when token {place}, of an "
                "earlier document, changes"
            )
            yield part.fault("documents", problem, "let nothing pass between tokens whose context.documents differ")
        return
    if part.reach == 1:
        if (change := influence.largest(influence.distance != 0)) is not None:
            yield part.fault("tokens", f"mixes tokens, which only a mixer may: {_measured(*change)}")
        return
    if ahead is not None:
        yield part.fault("future", f"sees the future: {_measured(*ahead)}")
        return
    if part.reach is None:
        return
    if (change := influence.largest(influence.distance >= part.reach)) is not None:
        place, time, _ = change
        problem = (
            f"hears of more than the {part.reach} tokens of its reach: {_measured(*change)}, {time - place} before it"
        )
        yield part.fault("reach", problem, "let `reach` say how many tokens an output depends on, its own included")
    elif part.exact and part.reach <= influence.change.shape[1]:
        heard = _heard(influence)
        if heard < part.reach:
            problem = f"hears of {heard} tokens, not of the {part.reach} of its reach"
            yield part.fault("reach", problem, "let `reach` say how many tokens an output depends on, its own included")


def _measured(place: int, time: int, change: float) -> str:
    return f"its output at position {time} changes by {size(change)} when token {place} changes"


def _heard(influence: Influence) -> int:
    """How many tokens an output depends on, its own included."""
    distances: list[int] = influence.distance[influence.change > 0].tolist()
    return max(distances, default=-1) + 1


def _across_rows(call: Call, base: Tensor) -> Fault | None:
    x = call.x.clone()
    x[0] = _noise(x[0])
    change = _changes(base, call.again(x))[1:]
    if not change.any():
        return None
    row, time = divmod(int(change.argmax()), change.shape[1])
    problem = (
        f"mixes the sequences of a batch: the output of sequence {row + 1} at position {time} changes by "
        f"{size(change[row, time])} when sequence 0 changes"
    )
    return call.part.fault("batch", problem)


def _changed(x: Tensor, at: Tensor) -> Tensor:
    """x [P, T, d] with row i changed at at[i]."""
    x, rows = x.clone(), torch.arange(len(at))
    x[rows, at] = _noise(x[rows, at])
    return x


def _noise(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype) * like.std().clamp(min=0.5)


def _changes(before: Tensor, after: Tensor) -> Tensor:
    """[P, T, …] twice → [P, T], the largest change over what follows; what rounding explains is 0."""
    change = (after - before).abs().flatten(2).amax(-1).float()
    least = _TOLERANCE.get(before.dtype, 3e-4) * max(1e-3, float(before.abs().max()))
    return torch.where(change > least, change, 0.0)

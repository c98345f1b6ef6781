"""One architecture, probed: what its components promise, measured on a tiny instance of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from components.architecture import Architecture
from lab.accounting.reach import reach
from lab.probing.decoding import PADDING, faults_of_decoding
from lab.probing.fault import Fault, ProbeFailure, first_of_each
from lab.probing.influence import faults_of_model, faults_of_part, places
from lab.probing.instance import Call, Instance, Part, TooLarge, whole
from lab.probing.parameters import faults_of_count, faults_of_gradients, faults_of_storage
from lab.probing.tiny import tiny_architectures

_CONTEXT, _LONGEST = 12, 64
_BATCHES, _ROWS = 4, 16


@dataclass(frozen=True)
class ProbeResult:
    """What a probe came to.

    Attributes:
        faults: promises that are not kept; empty where all are.
        unknown: why it can't be told here; None where it could.
        error: the exception behind a fault that is one, for its line in the user's file.
    """

    faults: tuple[Fault, ...] = ()
    unknown: str | None = None
    error: BaseException | None = None


def probe(architecture: Architecture, *, documents: bool, bf16: bool = False, learns: bool = True) -> ProbeResult:
    """Try a tiny instance of an architecture. Takes a fraction of a second, and leaves torch's random numbers alone.

    Args:
        documents: whether runs have more than one document in a sequence, which must not mix.
        bf16: whether runs compute under bf16 autocast.
        learns: whether to see that everything is trained, too. Going backward costs a process seconds of imports.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            return ProbeResult(first_of_each(_faults(architecture, documents, bf16, learns)))
        except ProbeFailure as failure:
            return ProbeResult((failure.fault,), error=failure.error)
        except TooLarge as error:
            return ProbeResult(unknown=f"its smallest instance has {error.parameters:,} parameters")


def _faults(architecture: Architecture, documents: bool, bf16: bool, learns: bool) -> Iterator[Fault]:
    tiny, instance = _smallest(architecture)
    context = _context(instance)
    tokens = _tokens(len(places(context)), context)
    wrong = [fault for call in instance.calls(tokens) for fault in _malformed(call)]
    yield from wrong
    if wrong:
        return
    if learns:
        yield from faults_of_storage(tiny, instance.parts)
        yield from faults_of_count(instance, context)
        yield from faults_of_gradients(instance, _batches(context))
        if bf16:
            yield from _faults_under_autocast(instance, context)
    exact = _exact(tiny, instance, tokens)
    exact.model.train().requires_grad_(False)
    found = list(_faults_of_influence(exact, tokens, documents))
    yield from found
    yield from _faults_of_buffers(exact, tokens)
    exact.model.eval()
    if not found and context > PADDING:
        yield from faults_of_decoding(exact, tokens[:1])


def _smallest(architecture: Architecture) -> tuple[Architecture, Instance]:
    """The smallest instance that runs.

    Raises:
        ProbeFailure: none does, with what stops the one of the architecture's own width.
        TooLarge: only too large ones might.
    """
    problem: ProbeFailure | TooLarge | None = None
    for tiny in tiny_architectures(architecture):
        try:
            instance = Instance(tiny)
            instance.calls(_tokens(2, min(4, _context(instance))))
        except (ProbeFailure, TooLarge) as error:
            problem = error
        else:
            return tiny, instance
    assert problem is not None, "an architecture of the real sizes is among the tiny ones"
    raise problem


def _exact(tiny: Architecture, instance: Instance, tokens: Tensor) -> Instance:
    """The instance in fp64, where its parts can compute in that; else as it is."""
    try:
        exact = Instance(tiny, torch.float64)
        calls = exact.calls(tokens)
    except ProbeFailure:
        return instance
    return exact if all(call.output.dtype == torch.float64 for call in calls) else instance


def _malformed(call: Call) -> Iterator[Fault]:
    """An output of another shape or dtype than the input, or with values that are not finite."""
    x, output = call.x, call.output
    if not isinstance(output, Tensor):
        yield call.part.fault(f"gives a {type(output).__name__} where a tensor is needed")
    elif output.shape != x.shape:
        yield call.part.fault(f"gives a tensor {list(output.shape)} for one {list(x.shape)}: they must be alike")
    elif output.dtype != x.dtype:
        yield call.part.fault(f"gives {_name(output.dtype)} for {_name(x.dtype)}: they must be alike")
    elif not output.isfinite().all():
        share = float((~output.isfinite()).float().mean())
        yield call.part.fault(f"gives values that are not finite: {share:.0%} of its output")


def _faults_under_autocast(instance: Instance, context: int) -> Iterator[Fault]:
    tokens, targets = next(_batches(context))
    with torch.autocast("cpu", torch.bfloat16), instance.recorded():
        losses = instance.model.losses(tokens, targets=targets)
    losses.objective.backward()  # type: ignore[no-untyped-call]
    if not math.isfinite(losses.objective.item()):
        yield whole(instance.architecture).fault(f"gives a loss of {losses.objective.item()} under bf16 autocast")


def _faults_of_influence(instance: Instance, tokens: Tensor, documents: bool) -> Iterator[Fault]:
    """Of each part, and where those are sound, of what stands between them."""
    context = tokens.shape[1]
    ids = (torch.arange(context) >= context // 2).long() if documents and context > 1 else None
    for of_pass in (None, ids) if ids is not None else (None,):
        found: list[Fault] = []
        blamed: set[str] = set()
        with torch.no_grad():
            for call in instance.calls(tokens, None if of_pass is None else of_pass.expand(len(tokens), -1)):
                # A layer holds what its parts do wrong, and is measured after them.
                if not any(name.startswith(f"{call.part.name}.") for name in blamed):
                    faults = faults_of_part(call, of_pass)
                    blamed |= {call.part.name} if faults else set()
                    found += faults
        yield from found
        if not found:
            yield from faults_of_model(instance, tokens, of_pass, _whole_with_reach(instance))
        elif of_pass is None:
            return


def _whole_with_reach(instance: Instance) -> Part:
    return replace(whole(instance.architecture), reach=reach(instance.architecture))


def _faults_of_buffers(instance: Instance, tokens: Tensor) -> Iterator[Fault]:
    """Buffers that a pass changes."""
    before = {name: buffer.clone() for name, buffer in instance.model.named_buffers()}
    if not before:
        return
    instance.calls(tokens)
    for name, buffer in instance.model.named_buffers():
        if not torch.equal(buffer, before[name]):
            problem = f"changes its buffer '{name}' in a forward pass: what it gives depends on what it saw before"
            yield whole(instance.architecture).fault(problem)


def _context(instance: Instance) -> int:
    """Tokens a text: more than the parts reach, as far as that is short, and than the model's positions allow."""
    reaches = [part.reach for part in instance.parts if part.reach is not None]
    context = min(max(_CONTEXT, *(reach + 4 for reach in reaches)), _LONGEST)
    limit = instance.architecture.max_context
    return context if limit is None else max(1, min(context, limit - PADDING))


def _tokens(rows: int, context: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 16, (rows, context), generator=generator)


def _batches(context: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(_BATCHES):
        tokens = torch.randint(0, 16, (_ROWS, context + 1), generator=generator)
        yield tokens[:, :-1], tokens[:, 1:]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

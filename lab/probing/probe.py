"""One architecture, probed: what its components promise, measured on a tiny instance of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from components.architecture import Architecture
from lab.accounting.reach import reach
from lab.probing.fault import Fault, ProbeFailure
from lab.probing.instance import PADDING, Instance, Part, TooLarge, holder, smallest, whole
from lab.probing.measures.decoding import faults_of_decoding
from lab.probing.measures.influence import faults_of_model, faults_of_part, places
from lab.probing.measures.parameters import faults_of_count, faults_of_gradients
from lab.probing.measures.storage import faults_of_storage
from lab.probing.tiny import tiny_architectures

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
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.default_generator.manual_seed(0)
        try:
            return ProbeResult(tuple(_faults(architecture, documents, bf16, learns)))
        except ProbeFailure as failure:
            return ProbeResult((failure.fault,), error=failure.error)
        except TooLarge as error:
            return ProbeResult(unknown=f"its smallest instance has {error.parameters:,} parameters")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: for tensors this small, waking others takes twenty times as long as the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _faults(architecture: Architecture, documents: bool, bf16: bool, learns: bool) -> Iterator[Fault]:
    try:
        instance = smallest(architecture)
    except ProbeFailure:
        stored = _faults_of_storage_alone(architecture) if learns else []
        yield from stored
        if stored:  # such as unwritten memory, which is why it doesn't run
            return
        raise
    tiny, context = instance.architecture, instance.context
    tokens = instance.tokens(len(places(context)))
    if learns:
        stored = list(faults_of_storage(tiny, instance.parts))
        yield from stored
        if stored:  # which may be why something else is wrong
            return
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
    if not found and context > PADDING and not tiny.mixers_without_cache:
        yield from faults_of_decoding(exact, tokens[:1])


def _faults_of_storage_alone(architecture: Architecture) -> list[Fault]:
    """What an architecture that doesn't run holds wrongly; nothing where it can't even be built."""
    for tiny in tiny_architectures(architecture):
        try:
            return list(faults_of_storage(tiny, Instance(tiny).parts))
        except (ProbeFailure, TooLarge):
            continue
    return []


def _exact(tiny: Architecture, instance: Instance, tokens: Tensor) -> Instance:
    """The instance in fp64, where its parts can compute in that; else as it is."""
    try:
        exact = Instance(tiny, torch.float64)
        exact.calls(tokens)
    except ProbeFailure:
        return instance
    return exact


def _faults_under_autocast(instance: Instance, context: int) -> Iterator[Fault]:
    tokens, targets = next(_batches(context))
    with torch.autocast("cpu", torch.bfloat16), instance.recorded():
        losses = instance.model.losses(tokens, targets=targets)
    losses.objective.backward()  # type: ignore[no-untyped-call]
    if not math.isfinite(losses.objective.item()):
        yield whole(instance.architecture).fault(
            "output", f"gives a loss of {losses.objective.item()} under bf16 autocast"
        )


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
            yield (holder(name, instance.parts) or whole(instance.architecture)).fault("state", problem)


def _batches(context: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(_BATCHES):
        tokens = torch.randint(0, 16, (_ROWS, context + 1), generator=generator)
        yield tokens[:, :-1], tokens[:, 1:]

"""Whether each parameter gets a gradient, and is counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from components.counting import HasIdleParameters
from lab.accounting.costs import costs
from lab.probing.fault import Fault
from lab.probing.instance import Instance, holder, whole

_TRIES = 4
"""Batches that a parameter may take to get a gradient: an expert is not chosen in each."""


def faults_of_gradients(instance: Instance, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Fault]:
    """Parameters that get no gradient from any of the batches (tokens and targets, each [B, T])."""
    model = instance.model
    waiting = dict(model.named_parameters())
    for tokens, targets in batches:
        for parameter in model.parameters():
            parameter.grad = None
        with instance.recorded():
            objective = model.losses(tokens, targets=targets).objective
        objective.backward()  # type: ignore[no-untyped-call]
        waiting = {name: p for name, p in waiting.items() if p.grad is None or not p.grad.any()}
        if not waiting:
            break
    idle = [module for module in model.modules() if isinstance(module, HasIdleParameters)]
    for name, parameter in waiting.items():
        if any(other is parameter for module in idle for other in module.parameters()):
            continue
        part = holder(name, instance.parts) or whole(instance.architecture)
        promise = f"gradient {name.removeprefix(part.name)}"
        if not parameter.requires_grad:
            problem = f"has a parameter that is not trained: {name} does not require a gradient"
            yield part.fault(promise, problem, "make what is not trained a buffer")
        else:
            problem = f"has a parameter that is never used: {name} {list(parameter.shape)} gets no gradient"
            yield part.fault(promise, problem)


def faults_of_count(instance: Instance, context: int) -> Iterator[Fault]:
    """A count of parameters that isn't the model's."""
    counted = costs(instance.architecture, context).parameters
    held = sum(parameter.numel() for parameter in instance.model.parameters())
    if counted != held:
        problem = f"is counted as {counted:,} parameters and has {held:,}: layers configured alike differ"
        yield whole(instance.architecture).fault("count", problem)

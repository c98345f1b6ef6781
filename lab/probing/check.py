"""Refuse experiments whose components break a promise. Asked by whatever plans runs, before anything is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from components.architecture import Architecture
from components.registry import Component
from lab.composition import extensions, memo
from lab.composition.frozen.freeze import components_of, to_plain
from lab.probing import passed
from lab.probing.fault import Fault
from lab.probing.optimizer import check_optimizer
from lab.probing.probe import ProbeResult, probe
from lab.probing.recipe import check_recipe
from lab.probing.tiny import tiny_architectures
from lab.refusals import Refusal, RequestError, Where
from lab.training.experiment import Experiment


def check_sound(experiment: Experiment) -> tuple[str, ...]:
    """Probe an experiment's model, and its optimizer and recipe where those are the user's own.

    What passed once with the same code is not probed again.

    Returns:
        what could not be told on this machine.
    Raises:
        RequestError: a component breaks a promise, with what was measured, its file, and the layer.
    """
    shared = (memo.ById(experiment.model), memo.ById(experiment.train), memo.ById(experiment.recipe))
    return memo.cached(("sound", *shared, memo.ById(experiment.optimizer)), lambda: _check(experiment))


def _check(experiment: Experiment) -> tuple[str, ...]:
    notes = [_check_model(experiment.model, experiment)]
    if notes == [None]:  # else no instance of the model runs here
        if extensions.is_own(experiment.optimizer):
            notes.append(_check_part(experiment, "optimizer", check_optimizer))
        if extensions.is_own(experiment.recipe):
            notes.append(_check_part(experiment, "recipe", check_recipe))
    return tuple(note for note in notes if note is not None)


def _check_part(experiment: Experiment, part: str, check: Callable[[Experiment], str | None]) -> str | None:
    """Probe an optimizer or a recipe together with the model, unless it has passed."""
    components = components_of(experiment)
    key = passed.key([part, to_plain(getattr(experiment, part)), experiment.model.text], components)
    if passed.has_passed(key):
        return None
    with torch.random.fork_rng(devices=[]):
        note = check(experiment)
    if note is None:
        passed.remember(key)
    return note


def _check_model(model: Architecture, experiment: Experiment) -> str | None:
    train, components = experiment.train, model.components()
    is_own = any(map(extensions.is_own, components.values()))
    smallest = next(tiny_architectures(model))
    options = {
        "documents": train.mask_documents,
        "bf16": is_own and train.precision == "bf16-mixed",
        "learns": is_own,
    }
    # With the real width where components are the user's: which width is tried first may depend on it.
    widths = [model.d_model] if is_own else []
    key = passed.key([smallest.text, widths, options], components)
    if passed.has_passed(key):
        return None
    result = probe(model, **options)
    if result.faults:
        if _needs_other_device(result, experiment):
            return f"not probed, as its components don't run on this machine: {result.faults[0].problem}"
        raise RequestError(*refusals(model, result))
    if result.unknown is not None:
        return f"not probed: {result.unknown}"
    passed.remember(key)
    return None


def _needs_other_device(result: ProbeResult, experiment: Experiment) -> bool:
    """Whether an exception may be due to a device that the runs will have and this machine lacks."""
    return result.error is not None and experiment.train.accelerator == "cuda" and not torch.cuda.is_available()


def refusals(model: Architecture, result: ProbeResult) -> Iterator[Refusal]:
    """A refusal for each fault, which names the component to blame: the user's own where there is one."""
    refused = set()
    for fault in result.faults:
        suspects = _suspects(model, fault)
        own = {path: component for path, component in suspects.items() if extensions.is_own(component)}
        path, component = next(iter((own or suspects).items()))
        if (path, fault.promise) in refused:  # in another layer
            continue
        refused.add((path, fault.promise))
        where = Where(key=f"model.{path}", part=_place(fault))
        if extensions.is_own(component):
            file, line = extensions.source(component)
            where = Where(file=file, line=line).within(where)
        raised = None if result.error is None else extensions.refusal_of(result.error)
        if raised is not None:
            where = Where(file=raised.where.file, line=raised.where.line, key=where.key, part=where.part)
        others = [f"{other.kind} '{other.name}'" for other in list(own.values())[1:]]
        name = " or ".join([f"{component.kind} '{component.name}'", *others])
        yield Refusal(f"{name} {fault.problem}", "unsound", where, fix=fault.fix)


def _suspects(model: Architecture, fault: Fault) -> dict[str, Component]:
    """Path in the architecture → component, of those that a fault may be due to."""
    components = model.components()
    of_kind = [f"kinds.{fault.kind}.{slot}" for slot in fault.slots]
    paths = [own if own in components else slot for own, slot in zip(of_kind, fault.slots, strict=True)]
    return {path: components[path] for path in paths if path in components}


def _place(fault: Fault) -> str | None:
    return None if fault.kind is None else f"layer kind '{fault.kind}' ({fault.module})"

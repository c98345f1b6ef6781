"""Runs that depend on runs: which arm consumes which run's checkpoint, in what order, and under what identity.

A component's option that refers to a run is marked in its field's metadata. In a file or an override it names a run;
in a frozen configuration it holds that run's identity, which is thereby part of the identity of the run that needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from components import registry
from components.registry import Component, OptionError
from lab.accounting.costs import costs
from lab.composition import extensions, memo
from lab.composition.frozen.freeze import components_of, load_experiment
from lab.composition.frozen.reload import relocated
from lab.composition.hydra import groups
from lab.planning.arms.arms import Arm
from lab.planning.language.sweep import NeededRun, Sweep, SweepFile
from lab.records.folder import TOKENIZER
from lab.records.naming import resolve
from lab.refusals import RequestError
from lab.training.experiment import Experiment
from lab.training.recipes.base import Recipe, run_options


@dataclass(frozen=True)
class Need:
    """A run that another consumes.

    Attributes:
        path: the configuration path that consumes it, such as `recipe.teacher`.
        identity: of the needed run; it stands at that path in the frozen configuration.
        run: its folder below the root, `sweep/arm/seed-n`.
        flops_per_token: what using it takes for each training token of the run that needs it.
    """

    path: str
    identity: str
    run: str
    flops_per_token: float = 0.0


@dataclass(frozen=True)
class Reference:
    """A run as a plan may refer to it: planned beside, or standing already.

    Attributes:
        tokenizer: folder in which it keeps its tokenizer; None for a run that is still to be made.
    """

    identity: str
    run: str
    experiment: Experiment
    tokenizer: Path | None = None


def spelled_out(sweep: Sweep, arms: Sequence[Arm], file: SweepFile) -> Sweep:
    """The sweep with its needs from arm to arm: what is said of a named arm holds for each of its cells.

    A needed arm with several cells is the one that agrees with the needing cell on every axis of its own.

    Raises:
        RequestError: `needs` names an unknown arm, path or seed, or an arm with several cells of which none is meant.
    """
    if not sweep.needs:
        return sweep
    cells: dict[str, list[Arm]] = {}
    for arm in arms:
        for name in {arm.name, arm.named}:
            cells.setdefault(name, []).append(arm)
    found: dict[str, dict[str, NeededRun]] = {}
    for name, wanted in sweep.needs.items():
        if name not in cells:
            raise RequestError(f"{file.at('needs', name)}: no arm is called '{name}'{_suggested(name, arms)}")
        for path, needed in wanted.items():
            where = file.at("needs", name, path)
            _check(path, needed, sweep, where)
            for arm in cells[name]:
                exact = needed
                if needed.arm is not None:
                    if needed.arm not in cells:
                        raise RequestError(f"{where}: no arm is called '{needed.arm}'{_suggested(needed.arm, arms)}")
                    exact = replace(needed, arm=provider(needed.arm, cells[needed.arm], arm, where))
                found.setdefault(arm.name, {})[path] = exact
    return replace(sweep, needs=found)


def in_order(sweep: Sweep, arms: Sequence[Arm], file: SweepFile) -> list[Arm]:
    """The arms, needed ones first, and those before whose FLOPs others are to have.

    Args:
        sweep: spelled out.
    Raises:
        RequestError: that goes round in a circle.
    """
    if not sweep.needs and not sweep.equal_flops:
        return list(arms)
    graph = {arm.name: [need.arm for need in _wanted(sweep, arm).values() if need.arm is not None] for arm in arms}
    for name, other in sweep.equal_flops.items():
        graph[name].append(other)
    by_name = {arm.name: arm for arm in arms}
    try:
        return [by_name[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        key = "equal_flops" if sweep.equal_flops.get(circle[0]) == circle[1] else "needs"
        raise RequestError(
            f"{file.at(key, circle[0])}: goes round in a circle: {' → '.join(circle)}; a run can't need itself"
        ) from None


def placeholders(sweep: Sweep, arm: Arm) -> tuple[str, ...]:
    """Overrides that stand for what an arm needs until the needed run's identity is known."""
    # Quoted, as the beginning of an identity may look like a number.
    texts = {path: QuotedString(_stand_in(needed), Quote.single) for path, needed in _wanted(sweep, arm).items()}
    return tuple(f"{path}={text.with_quotes()}" for path, text in texts.items())


def blamed(error: RequestError, sweep: Sweep, arm: Arm, file: SweepFile) -> RequestError | None:
    """The refusal of a cell, said of what the file has under `needs`, if it is of what stands in for that; else None.

    Args:
        sweep: spelled out.
    """
    for path, text in zip(_wanted(sweep, arm), placeholders(sweep, arm), strict=True):
        if str(error).startswith(f"{arm.where}: override '{text}': "):
            slot, _, option = path.rpartition(".")
            kind = groups.slots()[slot]
            having = [name for name in registry.names(kind) if option in run_options(registry.lookup(kind, name))]
            return RequestError(
                f"{file.at('needs', arm.named or arm.name, path)}: arm '{arm.name}' has nothing there that refers to a "
                f"run; it would with {slot}={' or '.join(having)}"
            )
    return None


def fill(
    experiment: Experiment,
    seed: int,
    arm: str | None,
    sweep: Sweep | None,
    planned: Mapping[tuple[str, int], Reference],
    root: Path | None,
    where: str,
) -> tuple[Experiment, tuple[Need, ...]]:
    """The experiment with the identities of the runs that it refers to, and those runs.

    Args:
        arm: of the sweep; None for a run that is none of a sweep's.
        sweep: spelled out.
        planned: (arm, seed) → the runs of this plan that are known so far.
        root: where runs that stand already are looked up; None refuses references to those.
        where: what the experiment is called in messages; empty for the command line's.
    Raises:
        RequestError: a reference means no run, one that has not finished, or one that can't be used for this.
    """
    wanted = (sweep.needs if sweep is not None else {}).get(arm or "", {})
    found = []
    filled = experiment
    for path, component in components_of(experiment).items():
        for option in run_options(type(component)):
            at = f"{path}.{option}"
            place = f"{where}: {at}" if where else at
            named: str = getattr(component, option)
            needed = wanted.get(at)
            if needed is not None and needed.arm is not None and named == _stand_in(needed):
                reference = planned[needed.arm, seed if needed.seed is None else needed.seed]
            else:
                reference = _known(named, root, place)
            flops = _checked(component, option, reference, experiment, place)
            if flops and sweep is not None and sweep.match.by == "flops":
                raise RequestError(
                    f"{place}: match: flops leaves out the teacher's forward passes; match params or tokens instead, "
                    "or say under equal_flops which arm trains on for as many FLOPs"
                )
            filled = _replaced(filled, at.split("."), reference.identity)
            found.append(Need(at, reference.identity, reference.run, flops))
    return filled, tuple(found)


def refer(components: Iterable[Component]) -> bool:
    """Whether any of these components refers to a run, so that `fill` has something to do."""
    return any(run_options(cls) for cls in {type(component) for component in components})


def paths() -> list[str]:
    """Every configuration path that may refer to a run: recipe.teacher, …."""
    return [
        f"{slot}.{option}"
        for slot, kind in groups.slots().items()
        for name in registry.names(kind)
        for option in run_options(registry.lookup(kind, name))
    ]


def _wanted(sweep: Sweep, arm: Arm) -> Mapping[str, NeededRun]:
    return sweep.needs.get(arm.name, {})


def _stand_in(needed: NeededRun) -> str:
    # A run's name stands for itself; no run is called what stands for an arm's.
    return needed.run if needed.run is not None else f"<{needed.arm}>"


def _check(path: str, needed: NeededRun, sweep: Sweep, where: str) -> None:
    if path not in paths():
        raise RequestError(f"{where}: no option there refers to a run{registry.suggestion(path, paths())}")
    if needed.seed is not None and needed.seed not in sweep.seed_list:
        seeds = ", ".join(map(str, sweep.seed_list[:20]))
        raise RequestError(f"{where}.seed: {needed.seed} is not among the sweep's seeds ({seeds})")


def provider(name: str, cells: Sequence[Arm], arm: Arm, where: str) -> str:
    """The one among the cells of a needed arm that a needing arm means."""
    if len(cells) == 1:
        return cells[0].name
    if name in [cell.name for cell in cells]:
        return name
    fitting = [cell.name for cell in cells if cell.cell.items() <= arm.cell.items()]
    if len(fitting) != 1:
        shown = ", ".join(cell.name for cell in cells[:8]) + (", …" if len(cells) > 8 else "")
        raise RequestError(f"{where}: '{name}' has {len(cells)} cells and '{arm.name}' needs one of them: {shown}")
    return fitting[0]


def _suggested(name: str, arms: Sequence[Arm]) -> str:
    return registry.suggestion(name, [arm.name for arm in arms][:20])


def _known(named: str, root: Path | None, place: str) -> Reference:
    """A run that stands already and has finished."""
    if root is None:
        raise RequestError(f"{place}: '{named}' can't be looked up: no root folder of runs is given")
    try:
        return memo.cached(("run", root, named), lambda: _standing(root, named))
    except RequestError as error:
        raise RequestError(f"{place}: {error}") from None


def _standing(root: Path, named: str) -> Reference:
    run = resolve(root, named)
    folder = run.path.relative_to(root).as_posix() if run.path.is_relative_to(root) else run.name
    if run.state.status != "finished":
        raise RequestError(f"{folder} is {run.state.status}: only a finished run can be consumed")
    with extensions.of_run(run.path, run.info):
        experiment = load_experiment(relocated(run.config, run.path / TOKENIZER))
    # That may have loaded the run's own version of the user's components.
    extensions.load()
    return Reference(run.identity, folder, experiment, run.path / TOKENIZER)


def _checked(component: Component, option: str, reference: Reference, experiment: Experiment, place: str) -> float:
    """What using the run takes, FLOPs for each training token, once it is clear that it can be used."""
    if not isinstance(component, Recipe):
        return 0.0
    try:
        component.check_run(option, reference.experiment, experiment, reference.tokenizer)
    except OptionError as error:
        raise RequestError(f"{place}: {reference.run}: {error.message}") from None
    cost = costs(reference.experiment.model, experiment.train.context)
    return component.flops_per_token(option, cost.forward_flops_per_token)


def _replaced(value: Any, keys: Sequence[str], new: str) -> Any:
    """A nested dataclass (or mapping of such) with one value of it changed."""
    if not keys:
        return new
    if isinstance(value, Mapping):
        return {**value, keys[0]: _replaced(value[keys[0]], keys[1:], new)}
    return replace(value, **{keys[0]: _replaced(getattr(value, keys[0]), keys[1:], new)})

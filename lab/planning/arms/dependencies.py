"""Which arm depends on which: the runs that it needs (`needs`), and the arm whose FLOPs it is to have (`equal_flops`).

A component's option that refers to a run is marked in its field's metadata. In a file or an override it names a run;
in a frozen configuration it holds that run's identity, which is thereby part of the identity of the run that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from hydra.core.override_parser.types import Quote, QuotedString

from components import registry
from components.registry import UnknownName
from lab.composition.hydra import groups
from lab.planning.arms.arm import Arm
from lab.planning.arms.overlaps import overlap
from lab.planning.language.read import SweepFile
from lab.planning.language.sweep import NeededRun
from lab.refusals import RequestError, Where
from lab.training.recipes.base import run_options

TOKENS = "train.tokens"
"""What `equal_flops` sets."""


def with_dependencies(arms: Sequence[Arm], file: SweepFile) -> list[Arm]:
    """The arms with what they depend on. What is said of a named arm holds for each of its cells.

    An arm with several cells that is depended on is the cell that agrees with the depending one on every axis of its
    own.

    Raises:
        RequestError: `needs` or `equal_flops` names an unknown arm, path or seed, an arm with several cells of which
            none is meant, an arm whose runs are known only once it has picked its tuned values, or an arm whose tokens
            or FLOPs something else decides.
    """
    cells: dict[str, list[Arm]] = {}
    for arm in arms:
        for name in dict.fromkeys((arm.name, arm.named)):
            cells.setdefault(name, []).append(arm)
    needs, equal_flops = _needs(cells, file), _equal_flops(cells, file)
    return [replace(arm, needs=needs.get(arm.name, {}), equal_flops=equal_flops.get(arm.name)) for arm in arms]


def in_order(arms: Sequence[Arm], file: SweepFile) -> list[Arm]:
    """The arms, each after those that it depends on.

    Raises:
        RequestError: they depend on each other in a circle.
    """
    graph = {arm.name: [need.arm for need in arm.needs.values() if need.arm is not None] for arm in arms}
    by_name = {arm.name: arm for arm in arms}
    for arm in arms:
        if arm.equal_flops is not None:
            graph[arm.name].append(arm.equal_flops)
    if not any(graph.values()):
        return list(arms)
    try:
        return [by_name[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        key = "equal_flops" if by_name[circle[0]].equal_flops == circle[1] else "needs"
        problem = f"goes round in a circle: {' → '.join(circle)}; a run can't need itself"
        raise RequestError(problem, kind="conflict", where=file.at(key, circle[0])) from None


def placeholders(arm: Arm) -> dict[str, str]:
    """Configuration path → the override that stands for what an arm needs until that run's identity is known."""
    # Quoted, as the beginning of an identity may look like a number.
    texts = {path: QuotedString(placeholder(needed), Quote.single) for path, needed in arm.needs.items()}
    return {path: f"{path}={text.with_quotes()}" for path, text in texts.items()}


def placeholder(needed: NeededRun) -> str:
    """What stands for a needed run in a configuration: its own name, or for an arm what no run is called."""
    return needed.run if needed.run is not None else f"<{needed.arm}>"


def components_for(path: str) -> list[str]:
    """The components that refer to a run at a configuration path such as `recipe.teacher`."""
    slot, _, option = path.rpartition(".")
    kind = groups.slots()[slot]
    return [name for name in registry.names(kind) if option in run_options(registry.lookup(kind, name))]


def _paths() -> tuple[str, ...]:
    """Every configuration path that may refer to a run: recipe.teacher, …."""
    return tuple(
        f"{slot}.{option}"
        for slot, kind in groups.slots().items()
        for name in registry.names(kind)
        for option in run_options(registry.lookup(kind, name))
    )


def _needs(cells: Mapping[str, list[Arm]], file: SweepFile) -> dict[str, dict[str, NeededRun]]:
    needs: dict[str, dict[str, NeededRun]] = {}
    seeds, tune = file.sweep.reported_seeds, file.sweep.tune
    for name, paths in file.sweep.needs.items():
        for arm in _cells_of(name, cells, file.at("needs", name)):
            for path, needed in paths.items():
                where = file.at("needs", name, path)
                if path not in _paths():
                    problem = "no option there refers to a run"
                    raise RequestError(problem, kind="unknown_key", where=where, given=path, expected=_paths())
                if needed.seed is not None and needed.seed not in seeds:
                    listed = ", ".join(map(str, seeds[:20]))
                    problem = f"{needed.seed} is not among the sweep's seeds ({listed})"
                    raise RequestError(problem, where=Where(key="seed").within(where), given=needed.seed)
                if needed.arm is not None and tune is not None:
                    axes = ", ".join(tune.axes)
                    problem = f"which run of '{needed.arm}' is needed is known only once it has picked its {axes}"
                    fix = "tune it in a sweep of its own, and name the run"
                    raise RequestError(problem, kind="conflict", where=where, fix=fix)
                if needed.arm is not None:
                    needed = replace(needed, arm=_provider(needed.arm, cells, arm, where))
                needs.setdefault(arm.name, {})[path] = needed
    return needs


def _equal_flops(cells: Mapping[str, list[Arm]], file: SweepFile) -> dict[str, str]:
    sweep = file.sweep
    if sweep.equal_flops and sweep.match.by in ("tokens", "flops"):
        problem = f"every arm has the baseline's {sweep.match.by} already, by match; keep one of the two"
        raise RequestError(problem, kind="conflict", where=file.at("equal_flops"))
    if sweep.equal_flops and sweep.tune is not None:
        problem = "doesn't go with tune, which may change what an arm costs"
        raise RequestError(problem, kind="conflict", where=file.at("equal_flops"))
    equal_flops: dict[str, str] = {}
    for name, other in sweep.equal_flops.items():
        where = file.at("equal_flops", name)
        for arm in _cells_of(name, cells, where):
            equal_flops[arm.name] = _provider(other, cells, arm, where)
            if (own := overlap(arm.settings, TOKENS)) is not None:
                problem = f"arm '{arm.name}' sets {TOKENS} itself ({file.line(*arm.places[own])}); keep one of the two"
                raise RequestError(problem, kind="conflict", where=where)
    return equal_flops


def _cells_of(name: str, cells: Mapping[str, list[Arm]], where: Where) -> list[Arm]:
    if name not in cells:
        arms = dict.fromkeys(arm.name for named in cells.values() for arm in named)
        raise RequestError.of_name(UnknownName("arm", name, list(arms)[:20]), where)
    return cells[name]


def _provider(name: str, cells: Mapping[str, list[Arm]], arm: Arm, where: Where) -> str:
    """The one among the cells of a named arm that an arm depends on."""
    named = [cell.name for cell in _cells_of(name, cells, where)]
    if len(named) == 1:
        return named[0]
    if name in named:
        return name
    fitting = [cell.name for cell in cells[name] if cell.cell.items() <= arm.cell.items()]
    if len(fitting) != 1:
        shown = ", ".join(named[:8]) + (", …" if len(named) > 8 else "")
        problem = f"'{name}' has {len(named)} cells and '{arm.name}' needs one of them: {shown}"
        raise RequestError(problem, where=where, given=name)
    return fitting[0]

"""Dependencies between arms: the runs that an arm uses (`needs`), and the arm whose FLOPs it gets (`equal_flops`).

The metadata of a field marks a component's option that refers to a run. In a file or an override, the option names a
run. In a frozen configuration it holds that run's identity, which becomes part of the identity of the run that uses it.
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
"""The configuration path that `equal_flops` sets."""


def with_dependencies(arms: Sequence[Arm], file: SweepFile) -> list[Arm]:
    """Add to each arm what it depends on. `needs` and `equal_flops` of a named arm apply to each of its cells.

    If the other arm has several cells, an arm depends on the cell that has the same values on that cell's axes.

    Raises:
        RequestError: `needs` or `equal_flops` names an unknown arm, path or seed; no single cell of the other arm
            fits; the other arm's runs are known only after it has picked its tuned values; or another key already
            decides the arm's tokens or FLOPs.
    """
    cells: dict[str, list[Arm]] = {}
    for arm in arms:
        for name in dict.fromkeys((arm.name, arm.named)):
            cells.setdefault(name, []).append(arm)
    needs, equal_flops = _needs(cells, file), _equal_flops(cells, file)
    return [replace(arm, needs=needs.get(arm.name, {}), equal_flops=equal_flops.get(arm.name)) for arm in arms]


def in_dependency_order(arms: Sequence[Arm], file: SweepFile) -> list[Arm]:
    """Order the arms so that each follows those on which it depends.

    Raises:
        RequestError: the dependencies form a cycle.
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
        cycle = list(reversed(error.args[1]))
        key = "equal_flops" if by_name[cycle[0]].equal_flops == cycle[1] else "needs"
        problem = f"is circular: {' → '.join(cycle)}; a run can't need itself"
        raise RequestError(problem, kind="conflict", where=file.at(key, cycle[0])) from None


def placeholders(arm: Arm) -> dict[str, str]:
    """Configuration path → the override that holds the place of a needed run until its identity is known."""
    # Quoted, because the first digits of an identity may look like a number.
    texts = {path: QuotedString(placeholder(needed), Quote.single) for path, needed in arm.needs.items()}
    return {path: f"{path}={text.with_quotes()}" for path, text in texts.items()}


def placeholder(needed: NeededRun) -> str:
    """The text that holds a needed run's place in a configuration: the run's name, or `<arm>`, which names no run."""
    return needed.run if needed.run is not None else f"<{needed.arm}>"


def components_for(path: str) -> list[str]:
    """The names of the components whose option at a configuration path, such as `recipe.teacher`, refers to a run."""
    slot, _, option = path.rpartition(".")
    kind = groups.slots()[slot]
    return [name for name in registry.names(kind) if option in run_options(registry.lookup(kind, name))]


def _paths() -> tuple[str, ...]:
    """Every configuration path that may refer to a run, such as `recipe.teacher`."""
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
                    problem = f"the runs of '{needed.arm}' are known only after it has picked its {axes}"
                    fix = "tune it in a sweep of its own, and name the run"
                    raise RequestError(problem, kind="conflict", where=where, fix=fix)
                if needed.arm is not None:
                    needed = replace(needed, arm=_provider(needed.arm, cells, arm, where))
                needs.setdefault(arm.name, {})[path] = needed
    return needs


def _equal_flops(cells: Mapping[str, list[Arm]], file: SweepFile) -> dict[str, str]:
    sweep = file.sweep
    if sweep.equal_flops and sweep.match.by in ("tokens", "flops"):
        problem = f"match already gives every arm the baseline's {sweep.match.by}; keep one of the two"
        raise RequestError(problem, kind="conflict", where=file.at("equal_flops"))
    if sweep.equal_flops and sweep.tune is not None:
        problem = "can't be combined with tune, which may change what an arm costs"
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
    """The cell of a named arm on which another arm depends."""
    named = [cell.name for cell in _cells_of(name, cells, where)]
    if len(named) == 1:
        return named[0]
    if name in named:
        return name
    matching = [cell.name for cell in cells[name] if cell.cell.items() <= arm.cell.items()]
    if len(matching) != 1:
        listing = ", ".join(named[:8]) + (", …" if len(named) > 8 else "")
        problem = f"'{name}' has {len(named)} cells and '{arm.name}' needs one of them: {listing}"
        raise RequestError(problem, where=where, given=name)
    return matching[0]

"""The fourth stage of a plan: the runs in dependency order."""

from __future__ import annotations

from dataclasses import dataclass

from lab.planning.arms.arm import Arm
from lab.planning.arms.dependencies import in_dependency_order
from lab.planning.solve.matching import MatchedArms
from lab.planning.solve.selection import Cell
from lab.planning.solve.tuning import tuned_cells, tuning_seeds
from lab.records import Role


@dataclass(frozen=True)
class RunGraph:
    """Every run of a sweep: each arm with each cell of the tuned axes and each seed.

    Attributes:
        arms: the arms, each after those on which it depends by `needs` or `equal_flops`.
        cells: the combinations of the tuned axes; one empty cell if the sweep tunes nothing.
        seeds: (role, seed) of each arm's runs, the tuning seeds first.
    """

    matched: MatchedArms
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[tuple[Role, int], ...]


def order_runs(matched: MatchedArms) -> RunGraph:
    """Order the runs of matched arms.

    Raises:
        RequestError: the dependencies between arms form a cycle, or a tuned axis is wrong.
    """
    sweep, file = matched.sweep, matched.sweep.file
    arms = in_dependency_order(sweep.arms, file)
    seeds: list[tuple[Role, int]] = [("tune", seed) for seed in tuning_seeds(file)]
    seeds += [("report", seed) for seed in file.sweep.reported_seeds]
    return RunGraph(matched, tuple(arms), tuple(tuned_cells(sweep)), tuple(seeds))

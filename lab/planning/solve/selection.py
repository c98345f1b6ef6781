"""Selection: each arm picks the cell of the tuned axes with the lowest mean of the metric over the tuning seeds.

The pick depends on the results of the tuning runs alone, so every command computes the same one. It is also recorded in
the sweep's plan.json, and stays once reporting runs have started from it.

This module imports nothing heavy, because `lab compare` uses it for ten thousand runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lab.composition.convert import whole_number
from lab.records import SelectedCell, readable_plan, write_plan_record

Edge = Literal["smallest", "largest"]


@dataclass(frozen=True)
class Cell:
    """One combination of the tuned axes' values; empty if the sweep tunes nothing.

    Attributes:
        name: a short name that is safe as part of a folder name: `lr=0.001`.
        settings: axis → value.
    """

    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TuningRun:
    """A tuning run with its present status.

    Attributes:
        cell: the name of its cell.
        status: a status of lab.records, or `missing`.
        value: the final value of the metric that decides; None if the run isn't finished or has no such metric.
        run: its folder below the root, for messages.
        reason: the reason for the status, in one line; None if there is none.
    """

    cell: str
    seed: int
    status: str
    value: float | None = None
    run: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class Selection:
    """The cell that an arm picks, or the reason why it can't pick one yet.

    Attributes:
        cells: all cells of the plan, in its order.
        metric: the metric that decides, lower is better.
        seeds: the tuning seeds.
        means: cell name → mean of the metric over the seeds, for the cells whose runs have all finished.
        ruled_out: the names of the cells in which a run diverged or ended with a loss that isn't finite.
        pending_runs: the runs whose results are needed before a cell can be picked.
        picked: the cell; None while results are missing, and if every cell is ruled out.
        is_recorded: whether `picked` is an earlier pick from the plan's record. `computed_pick` may then differ.
        computed_pick: the cell that the present results of the tuning runs give.
    """

    arm: str
    cells: tuple[Cell, ...]
    metric: str
    seeds: tuple[int, ...]
    means: Mapping[str, float]
    ruled_out: tuple[str, ...] = ()
    pending_runs: tuple[TuningRun, ...] = ()
    picked: Cell | None = None
    is_recorded: bool = False
    computed_pick: Cell | None = None

    @property
    def all_diverged(self) -> bool:
        """Whether every cell is ruled out. The arm then has no reporting runs, and that is its result."""
        return len(self.ruled_out) == len(self.cells)

    @property
    def stuck_runs(self) -> tuple[TuningRun, ...]:
        """The pending runs that won't give a result unless the user acts."""
        return tuple(run for run in self.pending_runs if run.status in ("failed", "blocked", "cancelled", "finished"))

    @property
    def edges(self) -> dict[str, Edge]:
        """Axis → edge, for numeric axes whose picked value is the smallest or the largest: a better one may lie beyond.

        Axes with a value that isn't a number are left out.
        """
        edges: dict[str, Edge] = {}
        for axis, value in self.picked.settings.items() if self.picked else ():
            numbers = [number for cell in self.cells if (number := _number(cell.settings[axis])) is not None]
            picked_number = _number(value)
            if picked_number is None or len(numbers) < len(self.cells) or min(numbers) == max(numbers):
                continue
            if picked_number in (min(numbers), max(numbers)):
                edges[axis] = "smallest" if picked_number == min(numbers) else "largest"
        return edges

    def describe(self) -> str:
        """One line for a person: `optimizer.lr = 0.002, picked on seeds 5, 6 of 3 values; at the edge`."""
        seeds = f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        if self.picked is not None:
            values = ", ".join(f"{axis} = {_shown(value)}" for axis, value in self.picked.settings.items())
            kind = "values" if len(self.picked.settings) == 1 else "combinations"
            text = f"{values}, picked on {seeds} of {len(self.cells)} {kind}"
            if self.ruled_out:
                text += f", {len(self.ruled_out)} of which diverged"
            edges = [f"the {edge} {axis} tried" for axis, edge in self.edges.items()]
            text += f"; at the edge: {', '.join(edges)}" if edges else ""
            if self.is_recorded and self.computed_pick is not None and self.computed_pick.name != self.picked.name:
                text += f"; kept, although the tuning runs now give {self.computed_pick.name}"
            return text
        if self.all_diverged:
            return f"nothing picked: all {len(self.cells)} cells diverged on {seeds}, so there are no runs to report"
        if not self.pending_runs:
            return "nothing picked: there are no tuning runs"
        first = (self.stuck_runs or self.pending_runs)[0]
        n_pending = "1 tuning run" if len(self.pending_runs) == 1 else f"{len(self.pending_runs)} tuning runs"
        text = f"nothing picked yet: waiting for {n_pending}, such as {first.run} ({first.status}"
        if first.status == "finished":
            text += f" without a {self.metric}"
        return text + (f": {first.reason})" if first.reason else ")")

    @property
    def record(self) -> SelectedCell:
        """The selection as plan.json records it; its cell is empty while nothing is picked."""
        return SelectedCell(
            self.picked.name if self.picked else "",
            self.seeds,
            {
                "values": dict(self.picked.settings) if self.picked else None,
                "metric": self.metric,
                "tried": len(self.cells),
                "means": dict(self.means),
                "diverged": list(self.ruled_out),
                "waiting": len(self.pending_runs),
                "edges": dict(self.edges),
            },
        )

    def as_dict(self) -> dict[str, object]:
        """The selection for `--json`."""
        return {**self.record.as_json(), "cell": self.picked.name if self.picked else None}


def select_cell(arm: str, cells: Sequence[Cell], tuning_runs: Sequence[TuningRun], metric: str) -> Selection:
    """Pick the cell with the lowest mean among the cells whose runs have all finished; the first one of a tie.

    A cell is ruled out if any of its runs diverged, whatever its other runs give. Nothing is picked while a run of
    another cell has no result, because that cell might be the best.

    Args:
        arm: the arm's name.
        cells: the cells of the plan, in its order.
        tuning_runs: the runs of all cells and seeds.
        metric: the metric that decides, lower is better.
    """
    seeds = tuple(dict.fromkeys(run.seed for run in tuning_runs))
    means: dict[str, float] = {}
    ruled_out: list[str] = []
    pending: list[TuningRun] = []
    for cell in cells:
        runs = [run for run in tuning_runs if run.cell == cell.name]
        values = [run.value for run in runs if run.status == "finished" and run.value is not None]
        if any(run.status == "diverged" for run in runs) or not all(map(math.isfinite, values)):
            ruled_out.append(cell.name)
        elif len(values) < len(runs):
            pending += [run for run in runs if run.status != "finished" or run.value is None]
        elif runs:
            means[cell.name] = math.fsum(values) / len(values)
    best = min(means, key=means.__getitem__) if means and not pending else None
    picked = next((cell for cell in cells if cell.name == best), None)
    return Selection(
        arm, tuple(cells), metric, seeds, means, tuple(ruled_out), tuple(pending), picked=picked, computed_pick=picked
    )


def with_recorded_pick(selection: Selection, recorded: SelectedCell | None) -> Selection | None:
    """The selection with its recorded pick; None if nothing is recorded or the plan has no such cell."""
    cell = next((cell for cell in selection.cells if recorded is not None and cell.name == recorded.cell), None)
    if recorded is None or cell is None:
        return None
    return replace(selection, picked=cell, is_recorded=True, seeds=recorded.seeds or selection.seeds)


def recorded_picks(root: Path | str, sweep: str) -> Mapping[str, SelectedCell]:
    """Arm → its pick, from a sweep's plan.json; empty if none is recorded."""
    plan = readable_plan(root, sweep)
    return {} if plan is None else plan.selected


def record_picks(root: Path | str, sweep: str, selections: Mapping[str, Selection]) -> None:
    """Write the picks into a sweep's plan.json. Earlier picks of other arms are kept."""
    plan = readable_plan(root, sweep)
    assert plan is not None, "the plan is written before anything is picked"
    picked = {arm: entry for arm, entry in plan.selected.items() if arm not in selections}
    picked |= {arm: selection.record for arm, selection in selections.items() if selection.picked is not None}
    if plan.selected != picked:
        write_plan_record(root, sweep, replace(plan, selected=picked))


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return whole_number(value)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

"""Which cell of the tuned axes an arm picks: that with the lowest mean of the metric over its tuning seeds.

A pure function of what the tuning runs came to, so that whoever asks, and however often, gets the same answer. What was
picked is recorded in the sweep's plan.json besides, and stays once reporting runs stand on it.

It loads nothing heavy: `lab compare` reads ten thousand runs with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lab.composition.convert import whole_number
from lab.records import Picked, sound_plan, write_plan_record

Edge = Literal["smallest", "largest"]


@dataclass(frozen=True)
class Cell:
    """One combination of the tuned axes' values; the empty one where nothing is tuned.

    Attributes:
        name: short and safe as part of a folder: `lr=0.001`.
    """

    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tried:
    """A tuning run as it stands.

    Attributes:
        cell: name of its cell.
        status: a status of lab.records, or `missing`.
        value: of the deciding metric, in the summary of a finished run; None where it has none.
        run: its folder below the root, for messages.
        reason: one line for a person, where the status has one.
    """

    cell: str
    seed: int
    status: str
    value: float | None = None
    run: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class Selection:
    """What an arm picks, or why it can't yet.

    Attributes:
        cells: all that were tried, in the plan's order.
        metric: what decides, lower is better.
        seeds: the tuning seeds.
        means: cell name → mean of the metric over the seeds, for cells all of whose runs finished.
        ruled_out: names of the cells in which a run diverged or came to a loss that isn't finite.
        waiting: runs without which nothing can be picked.
        picked: the cell; None while something is missing, and where every cell is ruled out.
        kept: whether `picked` was recorded before, and its reporting runs stand; what the tuning runs say now is in
            `derived` then.
        derived: what the tuning runs say.
    """

    arm: str
    cells: tuple[Cell, ...]
    metric: str
    seeds: tuple[int, ...]
    means: Mapping[str, float]
    ruled_out: tuple[str, ...] = ()
    waiting: tuple[Tried, ...] = ()
    picked: Cell | None = None
    kept: bool = False
    derived: Cell | None = None

    @property
    def hopeless(self) -> bool:
        """Whether every cell is ruled out: the arm has no reporting runs, and that is its result."""
        return len(self.ruled_out) == len(self.cells)

    @property
    def stuck(self) -> tuple[Tried, ...]:
        """Those that are waited for and won't come by themselves."""
        return tuple(run for run in self.waiting if run.status in ("failed", "blocked", "cancelled", "finished"))

    @property
    def edges(self) -> dict[str, Edge]:
        """Numeric axes of which the picked value is the smallest or the largest tried: a better one may lie beyond."""
        found: dict[str, Edge] = {}
        for axis, value in self.picked.settings.items() if self.picked else ():
            tried = [_number(cell.settings[axis]) for cell in self.cells]
            numbers = [number for number in tried if number is not None]
            here = _number(value)
            if here is None or len(numbers) < len(tried) or min(numbers) == max(numbers):
                continue
            if here in (min(numbers), max(numbers)):
                found[axis] = "smallest" if here == min(numbers) else "largest"
        return found

    def describe(self) -> str:
        """One line for a person: `optimizer.lr = 0.002, picked on seeds 5, 6 of 3 values; at the edge`."""
        seeds = f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        if self.picked is not None:
            values = ", ".join(f"{axis} = {_shown(value)}" for axis, value in self.picked.settings.items())
            kind = "values" if len(self.picked.settings) == 1 else "combinations"
            said = f"{values}, picked on {seeds} of {len(self.cells)} {kind}"
            if self.ruled_out:
                said += f", {len(self.ruled_out)} of which diverged"
            edges = [f"the {edge} {axis} tried" for axis, edge in self.edges.items()]
            said += f"; at the edge: {', '.join(edges)}" if edges else ""
            if self.kept and self.derived is not None and self.derived.name != self.picked.name:
                said += f"; kept, though the tuning runs now say {self.derived.name}"
            return said
        if self.hopeless:
            return f"nothing picked: all {len(self.cells)} cells diverged on {seeds}, so there are no runs to report"
        if not self.waiting:
            return "nothing picked: there are no tuning runs"
        first = (self.stuck or self.waiting)[0]
        said = f"nothing picked yet: waiting for {_counted(self.waiting)}, such as {first.run} ({first.status}"
        if first.status == "finished":
            said += f" without a {self.metric}"
        return said + (f": {first.reason})" if first.reason else ")")

    @property
    def record(self) -> Picked:
        """What plan.json keeps of it; its cell is empty while nothing is picked."""
        return Picked(
            self.picked.name if self.picked else "",
            self.seeds,
            {
                "values": dict(self.picked.settings) if self.picked else None,
                "metric": self.metric,
                "tried": len(self.cells),
                "means": dict(self.means),
                "diverged": list(self.ruled_out),
                "waiting": len(self.waiting),
                "edges": dict(self.edges),
            },
        )

    def as_dict(self) -> dict[str, object]:
        """The selection for `--json`."""
        return {**self.record.as_json(), "cell": self.picked.name if self.picked else None}


def select(arm: str, cells: Sequence[Cell], tried: Sequence[Tried], metric: str) -> Selection:
    """The cell with the lowest mean among those all of whose runs finished; the first of equals.

    A cell in which a run diverged is ruled out, whatever its other runs come to. Nothing is picked while a run of
    another cell has no result: what failed may have been the best.
    """
    seeds = tuple(dict.fromkeys(run.seed for run in tried))
    means: dict[str, float] = {}
    ruled_out: list[str] = []
    waiting: list[Tried] = []
    for cell in cells:
        runs = [run for run in tried if run.cell == cell.name]
        values = [run.value for run in runs if run.status == "finished" and run.value is not None]
        if any(run.status == "diverged" for run in runs) or not all(map(math.isfinite, values)):
            ruled_out.append(cell.name)
        elif len(values) < len(runs):
            waiting += [run for run in runs if run.status != "finished" or run.value is None]
        elif runs:
            means[cell.name] = math.fsum(values) / len(values)
    best = min(means, key=means.__getitem__) if means and not waiting else None
    picked = next((cell for cell in cells if cell.name == best), None)
    return Selection(
        arm, tuple(cells), metric, seeds, means, tuple(ruled_out), tuple(waiting), picked=picked, derived=picked
    )


def kept(made: Selection, recorded: Picked | None) -> Selection | None:
    """The selection with what was recorded as its pick; None where there is no such cell."""
    cell = next((cell for cell in made.cells if recorded is not None and cell.name == recorded.cell), None)
    if recorded is None or cell is None:
        return None
    return replace(made, picked=cell, kept=True, seeds=recorded.seeds or made.seeds)


def recorded(root: Path | str, sweep: str) -> Mapping[str, Picked]:
    """Arm → what it picked, as a sweep's plan.json says; empty where that says nothing."""
    plan = sound_plan(root, sweep)
    return {} if plan is None else plan.selected


def record(root: Path | str, sweep: str, selections: Mapping[str, Selection]) -> None:
    """Write what was picked into a sweep's plan.json. What arms picked that are not among these stays."""
    plan = sound_plan(root, sweep)
    assert plan is not None, "plan.json is written before anything is picked"
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


def _counted(runs: Sequence[Tried]) -> str:
    return "1 tuning run" if len(runs) == 1 else f"{len(runs)} tuning runs"

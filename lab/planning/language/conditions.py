"""Conditions on a sweep's cells: `when` an axis applies, and which cells `exclude` leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.registry import suggestion
from lab.planning.arms.arms import hydra_value
from lab.planning.language.sweep import Settings, Sweep, SweepFile
from lab.refusals import RequestError

ARM = "arm"


@dataclass(frozen=True)
class Known:
    """What conditions may speak of: each axis (each key that an arm sets, and `arm`) with the values that it has."""

    values: Mapping[str, Sequence[str]]


class Condition:
    """Axis → value or values, all of which must hold in a cell.

    Raises:
        RequestError: it names an unknown axis, or a value that the axis never has.
    """

    def __init__(self, condition: Settings, known: Known, file: SweepFile, *keys: str) -> None:
        if not condition:
            raise RequestError(f"{file.at(*keys)}: expected an axis with the value or values for which it holds")
        self.allowed: dict[str, set[str]] = {}
        for axis, wanted in condition.items():
            where = file.at(*keys, axis)
            if axis == ARM and ARM not in known.values:
                raise RequestError(f"{where}: this sweep names no arms; say which values of an axis are meant")
            if axis not in known.values:
                raise RequestError(f"{where}: no axis is called '{axis}'{suggestion(axis, known.values)}")
            texts = [hydra_value(value) for value in (wanted if isinstance(wanted, list | tuple) else [wanted])]
            for text in texts:
                if text not in known.values[axis]:
                    what = "no arm is called" if axis == ARM else f"{axis} never has the value"
                    raise RequestError(f"{where}: {what} '{text}'{suggestion(text, known.values[axis])}")
            self.allowed[axis] = set(texts)

    def holds(self, cell: Mapping[str, str]) -> bool:
        """Whether a cell (axis → value as a text, absent where the axis doesn't apply) meets it."""
        return all(cell.get(axis) in allowed for axis, allowed in self.allowed.items())


class When:
    """The conditional axes of a sweep."""

    def __init__(self, sweep: Sweep, axes: Mapping[str, Any], known: Known, file: SweepFile) -> None:
        self.conditions: dict[str, Condition] = {}
        waiting = {}
        for axis, condition in sweep.when.items():
            if axis not in axes:
                raise RequestError(f"{file.at('when', axis)}: no axis is called '{axis}'{suggestion(axis, axes)}")
            waiting[axis] = Condition(condition, known, file, "when", axis)
        self.applied = dict.fromkeys(waiting, 0)
        while waiting:  # an axis is decided after those on which it depends
            ready = [axis for axis, condition in waiting.items() if not waiting.keys() & condition.allowed]
            if not ready:
                first = next(iter(waiting))
                circle = ", ".join(waiting)
                raise RequestError(f"{file.at('when', first)}: conditions go round in a circle: {circle}")
            self.conditions |= {axis: waiting.pop(axis) for axis in ready}

    def settle(self, cell: dict[str, str]) -> None:
        """Take the axes that don't apply out of a cell."""
        for axis, condition in self.conditions.items():
            if condition.holds(cell):
                self.applied[axis] += 1
            else:
                del cell[axis]

    def check(self, file: SweepFile) -> None:
        """Refuse an axis that applied to no cell."""
        for axis, n in self.applied.items():
            if not n:
                raise RequestError(f"{file.at('when', axis)}: holds in no cell, so {axis} would never be set")


class Exclude:
    """The cells that a sweep leaves out."""

    def __init__(self, sweep: Sweep, known: Known, file: SweepFile) -> None:
        self.conditions = [Condition(cell, known, file, f"exclude[{i}]") for i, cell in enumerate(sweep.exclude)]
        self.matched = [0] * len(self.conditions)

    def leaves_out(self, cell: Mapping[str, str]) -> bool:
        """Whether any of the conditions holds; all are counted."""
        held = [condition.holds(cell) for condition in self.conditions]
        self.matched = [n + holds for n, holds in zip(self.matched, held, strict=True)]
        return any(held)

    def check(self, file: SweepFile, left: int) -> None:
        """Refuse a condition that left nothing out, or all of them where nothing is left."""
        for i, n in enumerate(self.matched):
            if not n:
                raise RequestError(f"{file.at(f'exclude[{i}]')}: matches no cell; drop it, or mend its values")
        if not left:
            raise RequestError(f"{file.at('exclude')}: removes every cell; nothing is left to run")

"""Conditions on a sweep's cells: `when` an axis applies, and which cells `exclude` leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from components.registry import UnknownName
from lab.planning.language.hydra_values import hydra_value
from lab.planning.language.read import SweepFile
from lab.planning.language.sweep import Settings
from lab.refusals import RequestError

ARM = "arm"

KnownValues = Mapping[str, Sequence[str]]
"""What a condition may name: each axis, each key that an arm sets, and `arm`, with the values that it has."""


class Condition:
    """A condition on cells: every axis that it names must have one of the values listed for it.

    Raises:
        RequestError: the condition names an unknown axis, or a value that the axis never has.
    """

    def __init__(self, condition: Settings, known: KnownValues, file: SweepFile, *keys: str) -> None:
        if not condition:
            problem = "expected an axis with one or several of its values"
            raise RequestError(problem, kind="missing", where=file.at(*keys))
        self.allowed: dict[str, set[str]] = {}
        for axis, allowed in condition.items():
            where = file.at(*keys, axis)
            if axis == ARM and ARM not in known:
                problem = "this sweep has no named arms; name values of an axis instead"
                raise RequestError(problem, kind="not_found", where=where)
            if axis not in known:
                raise RequestError.of_name(UnknownName("axis", axis, known), where)
            texts = [hydra_value(value) for value in (allowed if isinstance(allowed, list | tuple) else [allowed])]
            for text in texts:
                if text not in known[axis]:
                    if axis == ARM:
                        raise RequestError.of_name(UnknownName("arm", text, known[ARM]), where)
                    problem, values = f"{axis} never has the value '{text}'", tuple(known[axis])
                    raise RequestError(problem, kind="not_found", where=where, given=text, expected=values)
            self.allowed[axis] = set(texts)

    def holds(self, cell: Mapping[str, str]) -> bool:
        """Whether the condition holds in a cell: axis → value as a text, without the axes that don't apply."""
        return all(cell.get(axis) in allowed for axis, allowed in self.allowed.items())


class When:
    """The axes of a sweep that apply under a condition only."""

    def __init__(self, axes: Mapping[str, object], known: KnownValues, file: SweepFile) -> None:
        self.conditions: dict[str, Condition] = {}
        waiting = {}
        for axis, condition in file.sweep.when.items():
            if axis not in axes:
                raise RequestError.of_name(UnknownName("axis", axis, axes), file.at("when", axis))
            waiting[axis] = Condition(condition, known, file, "when", axis)
        self._n_applied = dict.fromkeys(waiting, 0)
        while waiting:  # each axis after those that its condition names
            ready = [axis for axis, condition in waiting.items() if not waiting.keys() & condition.allowed]
            if not ready:
                problem = f"the conditions are circular: {', '.join(waiting)}"
                raise RequestError(problem, kind="conflict", where=file.at("when", next(iter(waiting))))
            self.conditions |= {axis: waiting.pop(axis) for axis in ready}

    def remove_unset(self, cell: dict[str, str]) -> None:
        """Remove the axes that don't apply from a cell."""
        for axis, condition in self.conditions.items():
            if condition.holds(cell):
                self._n_applied[axis] += 1
            else:
                del cell[axis]

    def check(self, file: SweepFile) -> None:
        """Refuse an axis that applied to no cell.

        Raises:
            RequestError: at the condition.
        """
        for axis, n in self._n_applied.items():
            if not n:
                problem = f"holds in no cell, so {axis} would never be set"
                raise RequestError(problem, kind="conflict", where=file.at("when", axis))


class Exclude:
    """The cells that a sweep leaves out."""

    def __init__(self, known: KnownValues, file: SweepFile) -> None:
        cells = file.sweep.exclude
        self._conditions = [Condition(cell, known, file, f"exclude[{i}]") for i, cell in enumerate(cells)]
        self._n_matched = [0] * len(self._conditions)

    def leaves_out(self, cell: Mapping[str, str]) -> bool:
        """Whether any of the conditions holds in a cell. Counts the cells in which each condition holds."""
        results = [condition.holds(cell) for condition in self._conditions]
        self._n_matched = [n + holds for n, holds in zip(self._n_matched, results, strict=True)]
        return any(results)

    def check(self, file: SweepFile, n_left: int) -> None:
        """Refuse a condition that matched no cell, and conditions that leave no cell.

        Args:
            n_left: the number of cells that are left.
        Raises:
            RequestError: at the condition, or at `exclude`.
        """
        for i, n in enumerate(self._n_matched):
            if not n:
                fix = "remove it, or correct its values"
                raise RequestError("matches no cell", kind="conflict", where=file.at(f"exclude[{i}]"), fix=fix)
        if not n_left:
            problem = "removes every cell; nothing is left to run"
            raise RequestError(problem, kind="conflict", where=file.at("exclude"))

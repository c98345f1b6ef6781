"""From a sweep to its arms: named arms × grid × zipped groups, without the cells that `when` and `exclude` remove."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from components.registry import UnknownName
from lab.planning.arms.arm import Arm
from lab.planning.arms.dependencies import with_dependencies
from lab.planning.arms.names import check_arm_name, folder_key, hashed_name, joined_name, name_part, short_keys
from lab.planning.arms.overlaps import check_overrides, check_settings, overlap
from lab.planning.arms.sweep_arms import SweepArms
from lab.planning.language.axes import MOST_ARMS, Values, axis_values
from lab.planning.language.conditions import ARM, Exclude, KnownValues, When
from lab.planning.language.hydra_values import hydra_value
from lab.planning.language.read import SweepFile
from lab.planning.language.sweep import Settings, Sweep, key_rules
from lab.records import check_name
from lab.refusals import RequestError

BASELINE = "baseline"
"""The default name of the arm that `leave_one_out` and `add_one_in` start from if the file has no `arms`."""


@dataclass(frozen=True)
class _NamedArm:
    """A named arm before the axes are applied; `keys` lead to it in the file.

    An arm without a name takes the place of named arms in a sweep that has axes only.
    """

    name: str
    settings: Settings
    keys: tuple[str, ...]


_NO_ARM = _NamedArm("", {}, ())


@dataclass(frozen=True)
class _AxisGroup:
    """Axes that vary together, one row for each combination. An axis of the grid is a group of one."""

    axes: tuple[str, ...]
    rows: tuple[Values, ...]
    keys: tuple[str, ...]


_Combination = tuple[_NamedArm, dict[str, object]]
"""A named arm, and the values of the axes that apply to it."""


def expand(file: SweepFile, overrides: Sequence[str] = ()) -> SweepArms:
    """The arms of a sweep, each with the overrides of the command line on top.

    Raises:
        RequestError: an axis, a condition or a name is wrong, two settings set the same key, or no cell is left.
    """
    try:
        check_name(file.name)
    except ValueError as error:
        raise RequestError(f"cannot be a folder: {error}", where=file.place) from None
    named, groups = _named_arms(file), _axis_groups(file)
    if not groups and named == [_NO_ARM]:
        problem = "is missing: a sweep has arms, a grid, zip, leave_one_out or add_one_in"
        raise RequestError(problem, kind="missing", where=file.at("arms"))
    n_cells = len(named) * math.prod(len(group.rows) for group in groups)
    if n_cells > MOST_ARMS:
        where = file.at("grid" if file.sweep.grid else "zip")
        raise RequestError(f"{n_cells:,} cells are more than {MOST_ARMS:,}", where=where)
    check_settings(file)
    places = {axis: (*group.keys, axis) for group in groups for axis in group.axes}
    arms = _arms(list(_combinations(file, named, groups, places)), places, file)
    check_overrides(arms, file)
    return SweepArms(file, tuple(with_dependencies(arms, file)), _baseline(arms, file), tuple(overrides))


def _baseline(arms: Sequence[Arm], file: SweepFile) -> str:
    """The arm that the others are compared with: the first cell, if a named arm has several."""
    name = file.sweep.baseline
    if name is None:
        return arms[0].name
    names = [arm.name for arm in arms]
    if name in names:
        return name
    cells = [arm.name for arm in arms if arm.named == name]
    if not cells:
        raise RequestError.of_name(UnknownName("arm", name, names[:20]), file.at("baseline"))
    return cells[0]


def _named_arms(file: SweepFile) -> list[_NamedArm]:
    sweep = file.sweep
    arms = [_NamedArm(name, settings, ("arms", name)) for name, settings in sweep.arms.items()]
    changes = {
        key: rules["prefix"] for key, rules in key_rules(Sweep).items() if "prefix" in rules and getattr(sweep, key)
    }
    if changes:
        if not arms:
            arms = [_NamedArm(sweep.baseline or BASELINE, {}, ("baseline",))]
        base = _changed_arm(arms, file)
        for key, prefix in changes.items():
            for name, settings in getattr(sweep, key).items():
                arms.append(_NamedArm(f"{prefix}{name}", _merged(base.settings, settings), (key, name)))
    first: dict[str, _NamedArm] = {}
    for arm in arms:
        place = file.line(*arm.keys)
        try:
            check_arm_name(arm.name)
        except ValueError as error:
            raise RequestError(f"arm {arm.name!r} cannot be a folder: {error}", where=place) from None
        twin = first.setdefault(folder_key(arm.name), arm)
        if twin is not arm:
            share = "are one name" if twin.name == arm.name else "would share a folder"
            problem = f"arms '{twin.name}' ({file.line(*twin.keys)}) and '{arm.name}' {share}"
            raise RequestError(problem, kind="conflict", where=place, fix="rename one")
    return arms or [_NO_ARM]


def _changed_arm(named: Sequence[_NamedArm], file: SweepFile) -> _NamedArm:
    """The named arm that `leave_one_out` and `add_one_in` change. `baseline` names it, or one of its cells."""
    name = file.sweep.baseline
    if name is None:
        return named[0]
    candidates = [arm for arm in named if name == arm.name or name.startswith(f"{arm.name},")]
    if not candidates:
        raise RequestError(
            f"no arm is called '{name}'",
            kind="not_found",
            where=file.at("baseline"),
            given=name,
            expected=tuple(arm.name for arm in named),
            fix=f"if it sets nothing, write arms: {{{name}: {{}}}}",
        )
    return max(candidates, key=lambda arm: len(arm.name))


def _merged(base: Settings, own: Settings) -> dict[str, object]:
    """Settings with others on top; mappings are merged. The settings on top come last, because Hydra keeps the last."""
    merged: dict[str, object] = {key: value for key, value in base.items() if key not in own}
    for key, value in own.items():
        inherited = base.get(key)
        if isinstance(inherited, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(inherited, value)
        else:
            merged[key] = value
    return merged


def _axis_groups(file: SweepFile) -> list[_AxisGroup]:
    groups = []
    for axis, written in file.sweep.grid.items():
        # One value is enough if `when` sets the axis in some cells only.
        values = axis_values(axis, written, file, "grid", least=1 if axis in file.sweep.when else 2)
        groups.append(_AxisGroup((axis,), tuple((value,) for value in values), ("grid",)))
    for i, axes in enumerate(file.sweep.zip):
        keys = (f"zip[{i}]",)
        where = file.at(*keys)
        if len(axes) < 2:
            raise RequestError("expected several axes that vary together; put a single axis under grid", where=where)
        columns = {axis: axis_values(axis, written, file, *keys, distinct=False) for axis, written in axes.items()}
        if len({len(values) for values in columns.values()}) > 1:
            lengths = ", ".join(f"{axis} has {len(values)}" for axis, values in columns.items())
            raise RequestError(f"zipped axes must have the same number of values: {lengths}", where=where)
        rows = tuple(zip(*columns.values(), strict=True))
        texts = Counter(tuple(map(hydra_value, row)) for row in rows)
        if repeated := [row for row, n in texts.items() if n > 1]:
            raise RequestError(f"the values {', '.join(repeated[0])} appear together twice", where=where)
        groups.append(_AxisGroup(tuple(columns), rows, keys))
    first: dict[str, _AxisGroup] = {}
    for group in groups:
        for axis in group.axes:
            twin = first.setdefault(axis, group)
            if twin is not group:
                problem = f"the axis is already in {twin.keys[0]}"
                raise RequestError(problem, kind="conflict", where=file.at(*group.keys, axis))
    return groups


def _combinations(
    file: SweepFile, named: Sequence[_NamedArm], groups: Sequence[_AxisGroup], places: Mapping[str, tuple[str, ...]]
) -> Iterator[_Combination]:
    """Every combination that `when` and `exclude` leave, in the order of the file."""
    texts = [[tuple(map(hydra_value, row)) for row in group.rows] for group in groups]
    own_texts = [{key: hydra_value(value) for key, value in arm.settings.items()} for arm in named]
    valid_values = _known_values(named, groups, texts, own_texts)
    when, exclude = When(places, valid_values, file), Exclude(valid_values, file)
    overlaps = {(arm.name, axis): overlap(arm.settings, axis) for arm in named for axis in places if arm.settings}
    earlier, n_left = set(), 0
    for arm, own in zip(named, own_texts, strict=True):
        rows = [zip(group.rows, row_texts, strict=True) for group, row_texts in zip(groups, texts, strict=True)]
        for combination in product(*rows):
            values: dict[str, object] = {}
            cell = {**own, ARM: arm.name}
            for group, (row, text) in zip(groups, combination, strict=True):
                values.update(zip(group.axes, row, strict=True))
                cell.update(zip(group.axes, text, strict=True))
            when.remove_unset(cell)
            if exclude.leaves_out(cell):
                continue
            n_left += 1
            if when.conditions:
                values = {axis: value for axis, value in values.items() if axis in cell}
                key = (arm.name, *((axis, cell[axis]) for axis in values))
                if key in earlier:
                    continue
                earlier.add(key)
            for axis in values if arm.settings else ():
                if own_key := overlaps[arm.name, axis]:
                    problem = f"the arm '{arm.name}' sets {own_key} itself ({file.line(*arm.keys)})"
                    fix = "say under `when` to which arms the axis applies"
                    raise RequestError(problem, kind="conflict", where=file.at(*places[axis]), fix=fix)
            yield arm, values
    when.check(file)
    exclude.check(file, n_left)


def _known_values(
    named: Sequence[_NamedArm],
    groups: Sequence[_AxisGroup],
    texts: Sequence[Sequence[tuple[str, ...]]],
    own_texts: Sequence[Mapping[str, str]],
) -> KnownValues:
    values: dict[str, list[str]] = {}
    for group, rows in zip(groups, texts, strict=True):
        for axis, column in zip(group.axes, zip(*rows, strict=True), strict=True):
            values[axis] = list(dict.fromkeys(column))
    if any(arm.name for arm in named):
        values[ARM] = [arm.name for arm in named]
    for settings in own_texts:
        for key, text in settings.items():
            values[key] = list(dict.fromkeys([*values.get(key, ()), text]))
    return values


def _arms(combinations: Sequence[_Combination], places: Mapping[str, tuple[str, ...]], file: SweepFile) -> list[Arm]:
    """The combinations as arms, each with a name of its own."""
    short = short_keys(dict.fromkeys(axis for _, cell in combinations for axis in cell))
    names, full_names = [], []
    for arm, cell in combinations:
        own = [arm.name] if arm.name else []
        names.append(joined_name([*own, *(name_part(short[axis], value) for axis, value in cell.items())]))
        full_names.append(",".join([arm.name, *(f"{axis}={hydra_value(value)}" for axis, value in cell.items())]))
    counts = Counter(map(folder_key, names))
    arms = []
    for (arm, cell), name, full_name in zip(combinations, names, full_names, strict=True):
        if counts[folder_key(name)] > 1 and cell:  # a hash separates arms whose folder names would be equal
            name = hashed_name(name, full_name)
        keys = arm.keys or next((places[axis] for axis in cell), ("grid",))[:1]
        arms.append(
            Arm(
                name=name,
                settings={**arm.settings, **cell},
                where=replace(file.line(*keys), part=f"arm '{name}'"),
                named=arm.name,
                cell=cell,
                places={**{key: (*arm.keys, key) for key in arm.settings}, **places},
            )
        )
    return arms

"""From a sweep to its arms: the named ones, times the grid, times each zipped group, less what doesn't apply."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from components.registry import suggestion
from lab.planning.arms.arms import Arm, hashed, hydra_value, name_part, short_keys, shortened
from lab.planning.language.axes import MOST_ARMS, axis_values
from lab.planning.language.conditions import ARM, Exclude, Known, When
from lab.planning.language.conflicts import check_overrides, check_settings, overlap
from lab.planning.language.sweep import Settings, Sweep, SweepFile
from lab.records.folder import check_name
from lab.refusals import RequestError

BASELINE = "baseline"
"""The name of the arm that `leave_one_out` and `add_one_in` start from where no arm is written."""

_TAKEN = ("plan.json",)  # what else stands in a sweep's folder


@dataclass(frozen=True)
class _Named:
    """A named arm before the axes; `keys` is where the file has it. The one without a name stands for no arms."""

    name: str
    settings: Settings
    keys: tuple[str, ...]


@dataclass(frozen=True)
class _Group:
    """Axes that go in step, one row a combination; an axis of the grid is a group of its own."""

    axes: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    keys: tuple[str, ...]


def arms_of(sweep: Sweep, file: SweepFile) -> list[Arm]:
    """The arms in the order of the file; the last axis varies fastest.

    Raises:
        RequestError: an axis, a condition or a name is wrong, something sets the same key twice, or nothing is left.
    """
    named = _named(sweep, file)
    groups = _groups(sweep, file)
    if not groups and named == [_Named("", {}, ())]:
        raise RequestError(f"{file}: arms: is missing: a sweep has arms, a grid, zip, leave_one_out or add_one_in")
    n_cells = len(named) * math.prod(len(group.rows) for group in groups)
    if n_cells > MOST_ARMS:
        raise RequestError(f"{file.at('grid' if sweep.grid else 'zip')}: {n_cells:,} cells are more than {MOST_ARMS:,}")
    check_settings([(("overrides",), sweep.overrides), *((arm.keys, arm.settings) for arm in named)], file)
    found = list(_cells(sweep, file, named, groups))
    arms = _with_names(found, file)
    check_overrides(sweep, arms, file)
    return arms


def baseline_of(sweep: Sweep, arms: Sequence[Arm], file: SweepFile) -> str:
    """The arm that the others are compared with: of a named arm with several cells, the first.

    Raises:
        RequestError: no arm has the name that `baseline` gives.
    """
    if sweep.baseline is None:
        return arms[0].name
    names = [arm.name for arm in arms]
    if sweep.baseline in names:
        return sweep.baseline
    cells = [arm.name for arm in arms if arm.named == sweep.baseline]
    if cells:
        return cells[0]
    near = suggestion(sweep.baseline, names[:20])
    raise RequestError(f"{file.at('baseline')}: no arm is called '{sweep.baseline}'{near}")


def _named(sweep: Sweep, file: SweepFile) -> list[_Named]:
    found = [_Named(name, settings, ("arms", name)) for name, settings in sweep.arms.items()]
    if sweep.leave_one_out or sweep.add_one_in:
        if not found:
            found = [_Named(sweep.baseline or BASELINE, {}, ("baseline",))]
        base = _base(sweep, found, file)
        for key, prefix in (("leave_one_out", "no_"), ("add_one_in", "with_")):
            changes: Mapping[str, Settings] = getattr(sweep, key)
            for name, settings in changes.items():
                found.append(_Named(f"{prefix}{name}", _on_top(base.settings, settings), (key, name)))
    first: dict[str, _Named] = {}
    for arm in found:
        where = file.line(*arm.keys)
        _check_arm_name(arm.name, f"{where}: arm {arm.name!r}")
        twin = first.setdefault(_folded(arm.name), arm)
        if twin is not arm:
            share = "are one name" if twin.name == arm.name else "would share a folder"
            other = file.line(*twin.keys)
            raise RequestError(f"{where}: arms '{twin.name}' ({other}) and '{arm.name}' {share}; rename one")
    return found or [_Named("", {}, ())]


def _base(sweep: Sweep, named: Sequence[_Named], file: SweepFile) -> _Named:
    """The named arm that is the baseline, which may be given as one of its cells."""
    if sweep.baseline is None:
        return named[0]
    names = [arm.name for arm in named]
    fitting = [arm for arm in named if sweep.baseline == arm.name or sweep.baseline.startswith(f"{arm.name},")]
    if not fitting:
        near = suggestion(sweep.baseline, names)
        raise RequestError(
            f"{file.at('baseline')}: no arm is called '{sweep.baseline}'{near}; if it sets nothing, write "
            f"arms: {{{sweep.baseline}: {{}}}}"
        )
    return max(fitting, key=lambda arm: len(arm.name))


def _groups(sweep: Sweep, file: SweepFile) -> list[_Group]:
    groups, seen = [], dict[str, tuple[str, ...]]()
    for axis, given in sweep.grid.items():
        # One value is something to vary where `when` says that the axis is not always set.
        values = axis_values(axis, given, file, "grid", least=1 if axis in sweep.when else 2)
        groups.append(_Group((axis,), tuple((value,) for value in values), ("grid",)))
    for i, axes in enumerate(sweep.zip):
        keys = (f"zip[{i}]",)
        if len(axes) < 2:
            raise RequestError(f"{file.at(*keys)}: expected axes that go in step; one alone is for the grid")
        columns = {axis: axis_values(axis, given, file, *keys, distinct=False) for axis, given in axes.items()}
        lengths = {axis: len(values) for axis, values in columns.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{axis} has {n}" for axis, n in lengths.items())
            raise RequestError(f"{file.at(*keys)}: axes in step have the same number of values: {listed}")
        rows = tuple(zip(*columns.values(), strict=True))
        twice = [row for row, n in Counter(tuple(map(hydra_value, row)) for row in rows).items() if n > 1]
        if twice:
            raise RequestError(f"{file.at(*keys)}: the values {', '.join(twice[0])} stand together twice")
        groups.append(_Group(tuple(columns), rows, keys))
    for group in groups:
        for axis in group.axes:
            if axis in seen:
                raise RequestError(f"{file.at(*group.keys, axis)}: the axis stands in {seen[axis][0]} already")
            seen[axis] = group.keys
    return groups


def _cells(
    sweep: Sweep, file: SweepFile, named: Sequence[_Named], groups: Sequence[_Group]
) -> Iterator[tuple[_Named, dict[str, Any], dict[str, tuple[str, ...]]]]:
    """(named arm, axes that apply with their values, where those stand) of every cell that is left."""
    axes = {axis: group.keys for group in groups for axis in group.axes}
    texts = [[tuple(map(hydra_value, row)) for row in group.rows] for group in groups]
    written = [{key: hydra_value(value) for key, value in arm.settings.items()} for arm in named]
    known = _known(named, groups, texts, written)
    when, exclude = When(sweep, axes, known, file), Exclude(sweep, known, file)
    places = {axis: (*keys, axis) for axis, keys in axes.items()}
    overruled = {(arm.name, axis): overlap(arm.settings, {axis: 0}) for arm in named for axis in axes if arm.settings}
    seen, left = set(), 0
    for arm, own in zip(named, written, strict=True):
        rows = [zip(group.rows, shown, strict=True) for group, shown in zip(groups, texts, strict=True)]
        for combination in product(*rows):
            values: dict[str, Any] = {}
            shown = {**own, ARM: arm.name}
            for group, (row, text) in zip(groups, combination, strict=True):
                values.update(zip(group.axes, row, strict=True))
                shown.update(zip(group.axes, text, strict=True))
            when.settle(shown)
            if exclude.leaves_out(shown):
                continue
            left += 1
            cell = {axis: value for axis, value in values.items() if axis in shown} if when.conditions else values
            key = (arm.name, *((axis, shown[axis]) for axis in cell))
            if when.conditions and key in seen:
                continue
            seen.add(key)
            for axis in cell if arm.settings else ():
                if overruled[arm.name, axis]:
                    raise RequestError(
                        f"{file.at(*places[axis])}: the arm '{arm.name}' sets {overruled[arm.name, axis]} itself "
                        f"({file.line(*arm.keys)}); say under `when` to which arms the axis applies"
                    )
            yield arm, cell, places
    when.check(file)
    exclude.check(file, left)


def _known(
    named: Sequence[_Named],
    groups: Sequence[_Group],
    texts: Sequence[Sequence[tuple[str, ...]]],
    written: Sequence[Mapping[str, str]],
) -> Known:
    values: dict[str, list[str]] = {}
    for group, rows in zip(groups, texts, strict=True):
        for axis, column in zip(group.axes, zip(*rows, strict=True), strict=True):
            values[axis] = list(dict.fromkeys(column))
    if any(arm.name for arm in named):
        values[ARM] = [arm.name for arm in named]
    for settings in written:
        for key, text in settings.items():
            values[key] = list(dict.fromkeys([*values.get(key, ()), text]))
    return Known(values)


def _with_names(
    cells: Sequence[tuple[_Named, dict[str, Any], dict[str, tuple[str, ...]]]], file: SweepFile
) -> list[Arm]:
    short = short_keys(dict.fromkeys(axis for _, cell, _ in cells for axis in cell))
    parts: dict[tuple[str, str], str] = {}
    wholes, names = [], []
    for arm, cell, _ in cells:
        axes = []
        for axis, value in cell.items():
            text = hydra_value(value)
            if (axis, text) not in parts:
                parts[axis, text] = name_part(short[axis], value)
            axes.append((parts[axis, text], f"{axis}={text}"))
        names.append(
            shortened(",".join([*filter(None, [arm.name]), *(part for part, _ in axes)]).strip("-.") or "base")
        )
        wholes.append(",".join([arm.name, *(whole for _, whole in axes)]))
    taken = Counter(map(_folded, names))
    arms = []
    for (arm, cell, places), name, whole in zip(cells, names, wholes, strict=True):
        if taken[_folded(name)] > 1 and cell:  # what a folder's name can't tell apart, a hash does
            name = hashed(name, whole)
        keys = arm.keys or next((places[axis] for axis in cell), ("grid",))[:1]
        own = {key: (*arm.keys, key) for key in arm.settings}
        arms.append(
            Arm(
                name=name,
                settings={**arm.settings, **cell} if arm.settings else cell,
                where=f"{file.line(*keys)}: arm '{name}'",
                named=arm.name,
                cell=cell,
                places={**own, **places},
            )
        )
    return arms


def _check_arm_name(name: str, where: str) -> None:
    try:
        check_name(name)
        if name != name.strip() or name.endswith("."):
            raise ValueError(f"name {name!r}: must not begin or end with a space, or end with a dot")
        if name in _TAKEN or len(name.encode()) > 200:
            raise ValueError(f"name {name!r}: is {'taken by the plan' if name in _TAKEN else 'too long'}")
    except ValueError as error:
        raise RequestError(f"{where} cannot be a folder: {error}") from None


def _on_top(base: Settings, own: Settings) -> dict[str, Any]:
    """Settings with others on top, mappings merged; what is on top comes last, so that it is what Hydra keeps."""
    found = {key: value for key, value in base.items() if key not in own}
    for key, value in own.items():
        under = base.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        found[key] = _on_top(under, value) if both and isinstance(under, Mapping) else value
    return found


def _folded(name: str) -> str:
    """Names that some file system takes for the same."""
    return name.casefold() if name.isascii() else unicodedata.normalize("NFC", name).casefold()

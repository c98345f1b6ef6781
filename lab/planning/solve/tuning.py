"""Axes of which each arm picks its own best: which cells are tried, and on which seeds. Picking is in selection.py."""

from __future__ import annotations

from collections.abc import Iterator

from lab.planning.arms.names import arm_name
from lab.planning.arms.overlaps import set_paths
from lab.planning.arms.sweep_arms import SweepArms
from lab.planning.language.axes import axis_values, product_of
from lab.planning.language.read import SweepFile
from lab.planning.solve.selection import Cell
from lab.records import check_name
from lab.refusals import RequestError

MEASURED = ("val/loss", "val/bits_per_byte", "train/loss")
"""What every finished run has measured and a tuned axis can be picked by; lower is better in each."""


def tuned_cells(sweep: SweepArms) -> list[Cell]:
    """The tuned combinations, in the order of the file; the last axis varies fastest. One empty cell without any.

    Raises:
        RequestError: an axis with fewer than two values, or one that is set elsewhere too; a metric that no run
            measures.
    """
    file, tune = sweep.file, sweep.file.sweep.tune
    if tune is None:
        return [Cell()]
    tuning_metric(file)
    axes = {axis: axis_values(axis, values, file, "tune", "axes") for axis, values in tune.axes.items()}
    tuned = {path: axis for axis, values in axes.items() for value in values for path in _paths(axis, value)}
    _refuse_set_elsewhere(tuned, sweep)
    cells = [Cell(arm_name(settings), settings) for settings in product_of(axes)]
    names: set[str] = set()
    for cell in cells:
        if cell.name.casefold() in names:
            problem = f"two cells would share the folder '{cell.name}'"
            raise RequestError(problem, kind="conflict", where=file.at("tune", "axes"))
        names.add(cell.name.casefold())
        for arm in sweep.arms:
            try:
                check_name(f"{arm.name},{cell.name}")
            except ValueError as error:
                raise RequestError(f"cannot be a folder: {error}", where=arm.where) from None
    return cells


def tuning_seeds(file: SweepFile) -> tuple[int, ...]:
    """The seeds on which the tuned axes are picked; none of them is reported.

    Raises:
        RequestError: a seed is one of the sweep's own.
    """
    tune, reported = file.sweep.tune, file.sweep.reported_seeds
    if tune is None:
        return ()
    free = max(reported) + 1
    if isinstance(tune.seeds, int):
        return tuple(range(free, free + tune.seeds))
    shared = [str(seed) for seed in tune.seeds if seed in reported]
    if shared:
        subject = f"seed {shared[0]} is" if len(shared) == 1 else f"seeds {', '.join(shared)} are"
        problem = f"{subject} reported too, and what is picked on a seed looks too good on it"
        fix = f"the first that is free is {free}"
        raise RequestError(problem, kind="conflict", where=file.at("tune", "seeds"), fix=fix)
    return tune.seeds


def tuning_metric(file: SweepFile) -> str | None:
    """What the tuned axes are picked by, lower is better; None where nothing is tuned.

    Raises:
        RequestError: no run measures it.
    """
    tune = file.sweep.tune
    if tune is None:
        return None
    metric = tune.metric or file.sweep.metrics[0]
    if metric not in MEASURED:
        whose = "" if tune.metric else " (the sweep's first metric)"
        problem = f"no run measures '{metric}'{whose} for itself"
        where = file.at("tune", "metric")
        raise RequestError(problem, kind="not_found", where=where, given=metric, expected=MEASURED)
    return metric


def _refuse_set_elsewhere(tuned: dict[str, str], sweep: SweepArms) -> None:
    """
    Args:
        tuned: configuration path → the tuned axis that sets it.
    """
    file = sweep.file
    for setting in file.sweep.settings():
        for path in _paths(setting.key, setting.value) if setting.keys[0] != "tune" else ():
            if path in tuned:
                problem = f"{'.'.join((*setting.keys, setting.key))} sets it too"
                where = file.at("tune", "axes", tuned[path])
                raise RequestError(problem, kind="conflict", where=where, fix="keep one of the two")
    for text in sweep.overrides:
        for path in _paths(text.partition("=")[0], None):
            if path in tuned:
                problem = f"{tuned[path]} is tuned in {file.place}: each arm picks its own"
                raise RequestError(problem, kind="conflict", override=text)


def _paths(key: str, value: object) -> Iterator[str]:
    """The configuration paths that a setting gives a value, groups as paths."""
    return (path.replace("/", ".") for path in set_paths(key, value))

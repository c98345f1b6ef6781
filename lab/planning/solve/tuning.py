"""Tuned axes: which cells are tried, and on which seeds. `selection.py` picks the best cell."""

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
"""The metrics that every finished run has, and that can decide a tuned axis. Lower is better for each."""


def tuned_cells(sweep: SweepArms) -> list[Cell]:
    """The combinations of the tuned axes, in the order of the file; the last axis varies fastest.

    A sweep without tuned axes has one empty cell.

    Raises:
        RequestError: an axis has fewer than two values or is also set elsewhere, or no run measures the metric.
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
    """The seeds of the tuning runs, whose results are not reported.

    Raises:
        RequestError: a tuning seed is also a seed of the sweep.
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
        problem = f"{subject} reported too, and a value looks too good on the seed on which it was picked"
        fix = f"use {free} or a later seed"
        raise RequestError(problem, kind="conflict", where=file.at("tune", "seeds"), fix=fix)
    return tune.seeds


def tuning_metric(file: SweepFile) -> str | None:
    """The metric that decides the tuned axes, lower is better; None if the sweep tunes nothing.

    Raises:
        RequestError: not every run measures it.
    """
    tune = file.sweep.tune
    if tune is None:
        return None
    metric = tune.metric or file.sweep.metrics[0]
    if metric not in MEASURED:
        origin = "" if tune.metric else " (the sweep's first metric)"
        problem = f"training runs don't measure '{metric}'{origin}"
        where = file.at("tune", "metric")
        raise RequestError(problem, kind="not_found", where=where, given=metric, expected=MEASURED)
    return metric


def _refuse_set_elsewhere(tuned: dict[str, str], sweep: SweepArms) -> None:
    """Refuse a tuned axis that another part of the sweep or the command line sets too.

    Args:
        tuned: configuration path → the tuned axis that sets it.
    """
    file = sweep.file
    for setting in file.sweep.settings():
        for path in _paths(setting.key, setting.value) if setting.keys[0] != "tune" else ():
            if path in tuned:
                problem = f"{'.'.join((*setting.keys, setting.key))} also sets it"
                where = file.at("tune", "axes", tuned[path])
                raise RequestError(problem, kind="conflict", where=where, fix="keep one of the two")
    for text in sweep.overrides:
        for path in _paths(text.partition("=")[0], None):
            if path in tuned:
                problem = f"{tuned[path]} is tuned in {file.place}: each arm picks its own"
                raise RequestError(problem, kind="conflict", override=text)


def _paths(key: str, value: object) -> Iterator[str]:
    """The configuration paths to which a setting assigns a value; a group counts as a path."""
    return (path.replace("/", ".") for path in set_paths(key, value))

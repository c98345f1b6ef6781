"""Axes of which each arm picks its own best: which cells are tried, and on which seeds. Picking is in selection.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.registry import suggestion
from lab.planning.arms.arms import arm_name
from lab.planning.language.axes import axis_values, product_of
from lab.planning.language.sweep import Sweep, SweepFile, Tune
from lab.planning.solve.selection import Cell
from lab.refusals import RequestError

if TYPE_CHECKING:
    from lab.planning.plan.build import PlannedRun
    from lab.planning.solve.matching import Matching

MEASURED = ("val/loss", "val/bits_per_byte", "train/loss")
"""What every finished run has measured and a tuned axis can be picked by; lower is better in each."""


def cells(sweep: Sweep, file: SweepFile, overrides: Sequence[str] = ()) -> list[Cell]:
    """The tuned combinations, in the order of the file; the last axis varies fastest.

    Args:
        overrides: the command line's, on top of every arm.
    Raises:
        RequestError: an axis with fewer than two values, or one that is set elsewhere too; a metric that no run
            measures.
    """
    if sweep.tune is None:
        return [Cell()]
    tuning_metric(sweep, file)
    axes = {axis: axis_values(axis, given, file, "tune", "axes") for axis, given in sweep.tune.axes.items()}
    _refuse_set_elsewhere(axes, sweep, file, overrides)
    _refuse_tuned_needs(sweep, sweep.tune, file)
    found = [Cell(arm_name(settings), settings) for settings in product_of(axes)]
    first: dict[str, Cell] = {}
    for cell in found:
        if first.setdefault(cell.name.casefold(), cell) is not cell:
            raise RequestError(f"{file.at('tune', 'axes')}: two cells would share the folder '{cell.name}'")
    return found


def tuning_seeds(sweep: Sweep, file: SweepFile) -> tuple[int, ...]:
    """The seeds on which the tuned axes are picked; none of them is reported.

    Raises:
        RequestError: a seed is one of the sweep's own.
    """
    if sweep.tune is None:
        return ()
    seeds, where = sweep.tune.seeds, file.at("tune", "seeds")
    if isinstance(seeds, int):
        first = max(sweep.seed_list) + 1
        return tuple(range(first, first + seeds))
    shared = [seed for seed in seeds if seed in sweep.seed_list]
    if shared:
        said = f"seed {shared[0]} is" if len(shared) == 1 else f"seeds {', '.join(map(str, shared))} are"
        raise RequestError(
            f"{where}: {said} reported too, and what is picked on a seed looks too good on it; "
            f"the first that is free is {max(sweep.seed_list) + 1}"
        )
    return seeds


def tuning_metric(sweep: Sweep, file: SweepFile) -> str | None:
    """What the tuned axes are picked by, lower is better; None where nothing is tuned.

    Raises:
        RequestError: no run measures it.
    """
    if sweep.tune is None:
        return None
    metric = sweep.tune.metric or sweep.metrics[0]
    if metric not in MEASURED:
        known = ", ".join(MEASURED)
        near = suggestion(metric, MEASURED) if sweep.tune.metric else ""
        where = file.at("tune", "metric")
        said = "" if sweep.tune.metric else " (the sweep's first metric)"
        raise RequestError(f"{where}: no run measures '{metric}'{said} for itself{near}; expected one of {known}")
    return metric


def check(runs: Sequence[PlannedRun], baseline: str, matching: Matching, file: SweepFile) -> None:
    """Refuse tuned axes that change nothing in an arm, or that change what is held equal between the arms.

    Whatever cell an arm picks, it must be within the tolerance of whatever cell the baseline picks.

    Raises:
        RequestError: naming the arm and the cell.
    """
    first: dict[str, PlannedRun] = {}
    for run in runs:
        twin = first.setdefault(run.identity, run)
        if twin.arm == run.arm and twin.cell.name != run.cell.name:
            raise RequestError(
                f"{file.at('tune', 'axes')}: '{twin.cell.name}' and '{run.cell.name}' are the same configuration in "
                f"arm '{run.arm}'; drop a value, or tune something that it has"
            )
    if matching.by == "none":
        return
    amounts = {(run.arm, run.cell.name): _amount(run, matching.by) for run in runs if run.cell.name}
    held = {cell: amount for (arm, cell), amount in amounts.items() if arm == baseline}
    for (arm, cell), amount in amounts.items():
        for other, equal in held.items():
            off = amount / equal - 1 if equal else float(amount != equal)
            if abs(off) > matching.tolerance * (1 + 1e-9):
                raise RequestError(
                    f"{file.at('tune', 'axes')}: what is tuned changes what is matched ({matching.by}): arm '{arm}' "
                    f"with {cell} has {off:+.1%} of it beside '{baseline}' with {other}; tune something else, or "
                    "write match: none"
                )


def _amount(run: PlannedRun, by: str) -> float:
    match by:
        case "params":
            return run.costs.parameters
        case "flops":
            return run.total_flops
        case "kv":
            return run.costs.kv_bytes_per_token
    return run.tokens


def _refuse_set_elsewhere(axes: Mapping[str, Any], sweep: Sweep, file: SweepFile, overrides: Sequence[str]) -> None:
    tuned = {path: axis for axis, values in axes.items() for value in values for path in _leaves(axis, value)}
    for keys, key, value in _settings(sweep):
        for path in _leaves(key, value):
            if path in tuned:
                where = file.at("tune", "axes", tuned[path])
                raise RequestError(f"{where}: {'.'.join((*keys, key))} sets it too; keep one of the two")
    for text in overrides:
        key, _, value = text.partition("=")
        if _bare(key) in tuned:
            raise RequestError(f"override '{text}': {tuned[_bare(key)]} is tuned in {file}: each arm picks its own")


def _settings(sweep: Sweep) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Everything else that a sweep sets: where (keys of the file), the path or group, and its value or values."""
    yield from ((("overrides",), key, value) for key, value in sweep.overrides.items())
    for name in ("arms", "leave_one_out", "add_one_in"):
        for arm, settings in getattr(sweep, name).items():
            yield from (((name, arm), key, value) for key, value in settings.items())
    yield from ((("grid",), axis, values) for axis, values in sweep.grid.items())
    for i, group in enumerate(sweep.zip):
        yield from (((f"zip[{i}]",), axis, values) for axis, values in group.items())


def _leaves(key: str, value: Any) -> Iterator[str]:
    """The configuration paths that a setting gives a value."""
    if isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _leaves(f"{key}.{inner}", item)
    else:
        yield _bare(key)


def _bare(key: str) -> str:
    return key.lstrip("+~").replace("/", ".")


def _refuse_tuned_needs(sweep: Sweep, tune: Tune, file: SweepFile) -> None:
    for arm, needed in sweep.needs.items():
        for path, run in needed.items():
            if run.arm is not None:
                raise RequestError(
                    f"{file.at('needs', arm, path)}: which run of '{run.arm}' is needed is known only once it "
                    f"has picked its {', '.join(tune.axes)}; tune it in a sweep of its own, and name the run"
                )

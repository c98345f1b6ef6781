"""Checks that need every run's identity and costs: runs that are the same, and tuned axes that undo matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lab.planning.arms.arm import Arm
from lab.planning.arms.sweep_arms import SweepArms
from lab.planning.plan.model import PlannedRun
from lab.planning.solve.matching import Matching
from lab.refusals import RequestError


def check_tuned(runs: Sequence[PlannedRun], matching: Matching, sweep: SweepArms) -> None:
    """Refuse tuned axes that change nothing in an arm, or that change the matched quantity.

    Every cell that an arm may pick must be within the tolerance of every cell that the baseline may pick.

    Raises:
        RequestError: with the arm and the cell.
    """
    where, baseline = sweep.file.at("tune", "axes"), sweep.baseline
    first: dict[str, PlannedRun] = {}
    for run in runs:
        twin = first.setdefault(run.identity, run)
        if twin.arm == run.arm and twin.cell.name != run.cell.name:
            problem = f"'{twin.cell.name}' and '{run.cell.name}' are the same configuration in arm '{run.arm}'"
            fix = "remove a value, or tune an option that the arm has"
            raise RequestError(problem, kind="conflict", where=where, fix=fix)
    if matching.by == "none":
        return
    amounts = {(run.arm, run.cell.name): _amount(run, matching.by) for run in runs if run.cell.name}
    of_baseline = {cell: amount for (arm, cell), amount in amounts.items() if arm == baseline}
    for (arm, cell), amount in amounts.items():
        for other, equal in of_baseline.items():
            off = amount / equal - 1 if equal else float(amount != equal)
            if abs(off) > matching.tolerance * (1 + 1e-9):
                problem = (
                    f"a tuned axis changes the matched quantity ({matching.by}): arm '{arm}' with {cell} differs by "
                    f"{off:+.1%} from '{baseline}' with {other}"
                )
                fix = "tune something else, or write match: none"
                raise RequestError(problem, kind="conflict", where=where, fix=fix)


def check_distinct(runs: Sequence[PlannedRun], sweep: SweepArms) -> None:
    """Refuse two arms that are the same run.

    Raises:
        RequestError: with the axis that changes nothing, or the two arms.
    """
    by_name = {arm.name: arm for arm in sweep.arms}
    first: dict[str, str] = {}
    for run in runs:
        twin = first.setdefault(run.identity, run.arm)
        if twin != run.arm:
            raise _same_run(by_name[twin], by_name[run.arm], sweep)


def _same_run(a: Arm, b: Arm, sweep: SweepArms) -> RequestError:
    axes = _differing_axes(a.cell, b.cell)
    if a.named == b.named and axes:
        subject = f"axis {axes[0]} changes" if len(axes) == 1 else f"axes {' and '.join(axes)} change"
        keys = b.places.get(axes[0]) or a.places[axes[0]]
        problem = f"{subject} nothing: '{a.name}' and '{b.name}' give the same configuration"
        fix = "remove a value, or write under `when` where the axis applies"
        return RequestError(problem, kind="conflict", where=sweep.file.at(*keys), fix=fix)
    problem = f"arms '{a.name}' and '{b.name}' resolve to the same configuration"
    return RequestError(problem, kind="conflict", where=replace(b.where, part=None), fix="remove one of them")


def _differing_axes(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    absent = object()
    return [axis for axis in dict.fromkeys([*a, *b]) if a.get(axis, absent) != b.get(axis, absent)]


def _amount(run: PlannedRun, by: str) -> float:
    match by:
        case "params":
            return run.costs.parameters
        case "flops":
            return run.total_flops
        case "kv":
            return run.costs.kv_bytes_per_token or 0.0
    return run.tokens

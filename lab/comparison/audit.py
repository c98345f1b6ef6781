"""Check whether a sweep's arms are comparable: how far each arm's costs are from the baseline's.

A sweep declares which cost its arms hold equal. It may hold nothing equal; its tables then name the arms that are
larger, and the costs in which they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lab.comparison.metrics import COST_TITLES
from lab.comparison.read.results import ArmResults, SweepResults

# The costs that each rule of matching holds equal.
_MATCHED_COSTS = {
    "params": ("parameters",),
    "flops": ("total_flops",),
    "kv": ("kv_bytes_per_token",),
    "tokens": ("tokens",),
    "none": ("parameters", "flops_per_token", "total_flops"),
}


@dataclass(frozen=True)
class Audit:
    """How far the arms are from the baseline.

    Attributes:
        match: what is held equal: params, flops, kv, tokens or none; None if neither plan nor runs declare it.
        tolerance: the largest difference that counts as equal, as a fraction.
        deviations: arm → cost → (the arm's cost / the baseline's) - 1, for the costs that `match` holds equal.
    """

    match: str | None
    tolerance: float
    deviations: Mapping[str, Mapping[str, float]]

    @property
    def is_matched(self) -> bool:
        """Whether the sweep declares that it holds something equal."""
        return self.match not in (None, "none")

    def mismatches(self, arm: str) -> dict[str, float]:
        """The arm's deviations that exceed the tolerance."""
        deviations = self.deviations.get(arm, {})
        return {cost: value for cost, value in deviations.items() if abs(value) > self.tolerance * (1 + 1e-9)}

    def describe(self, arm: str) -> str:
        """`+3.1% parameters, -2.0% FLOPs/token`; empty for an arm within the tolerance."""
        return ", ".join(f"{signed_percent(value)} {COST_TITLES[cost]}" for cost, value in self.mismatches(arm).items())


def audit(sweep: SweepResults) -> Audit:
    """Compare every arm's costs with the baseline's. An unknown `match` counts as none."""
    baseline = sweep.arms.get(sweep.baseline)
    costs = _MATCHED_COSTS.get(sweep.match or "none", _MATCHED_COSTS["none"])
    arms = sweep.arms.values() if baseline else ()
    deviations = {arm.name: _deviations(arm, baseline, costs) for arm in arms if baseline}
    for arm_deviations in deviations.values():
        # Total FLOPs are listed only if they add something to FLOPs per token: the arm trains on another number of
        # tokens, or runs a teacher.
        per_token, total = arm_deviations.get("flops_per_token"), arm_deviations.get("total_flops")
        if per_token is not None and total is not None and abs(total - per_token) <= sweep.tolerance:
            del arm_deviations["total_flops"]
    return Audit(sweep.match, sweep.tolerance, deviations)


def _deviations(arm: ArmResults, baseline: ArmResults, costs: tuple[str, ...]) -> dict[str, float]:
    return {
        cost: deviation(arm.costs[cost], baseline.costs[cost])
        for cost in costs
        if cost in arm.costs and cost in baseline.costs
    }


def deviation(value: float, reference: float) -> float:
    """The relative difference of a value from a reference, as a fraction; infinite if only the reference is 0."""
    if reference:
        return value / reference - 1
    return math.inf if value else 0.0


def signed_percent(fraction: float) -> str:
    """A signed percentage with one decimal, such as `+3.1%`; without decimals from 100% on."""
    if not math.isfinite(fraction):
        return "from none to"
    return f"{100 * fraction:+.0f}%" if abs(fraction) >= 1 else f"{100 * fraction:+.1f}%"

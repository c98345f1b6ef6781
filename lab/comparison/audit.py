"""Whether a sweep's arms are comparable: how far each is from the baseline in what is held equal, or in size.

A sweep that holds nothing equal is allowed; then every table says which arms are larger, and in what.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lab.comparison.read.results import Arm, Sweep

# What each rule of matching holds equal, by the name of the cost.
_HELD = {
    "params": ("parameters",),
    "flops": ("total_flops",),
    "kv": ("kv_bytes_per_token",),
    "tokens": ("tokens",),
    "none": ("parameters", "flops_per_token", "total_flops"),
}
TITLES = {
    "parameters": "parameters",
    "total_flops": "FLOPs in all",
    "flops_per_token": "FLOPs/token",
    "kv_bytes_per_token": "KV bytes/token",
    "tokens": "tokens",
}


@dataclass(frozen=True)
class Audit:
    """How far the arms are from the baseline.

    Attributes:
        match: what is held equal: params, flops, kv, tokens or none; None where no run says.
        tolerance: largest difference that counts as equal, as a fraction.
        deviations: arm → cost → (the arm's / the baseline's) - 1, of the costs that the rule is about, where known.
    """

    match: str | None
    tolerance: float
    deviations: Mapping[str, Mapping[str, float]]

    def off(self, arm: str) -> dict[str, float]:
        """The deviations of an arm that are beyond the tolerance."""
        found = self.deviations.get(arm, {})
        return {cost: off for cost, off in found.items() if abs(off) > self.tolerance * (1 + 1e-9)}

    def describe(self, arm: str) -> str:
        """`+3.1% parameters, -2.0% FLOPs/token`; empty for an arm within the tolerance."""
        return ", ".join(f"{percent(off)} {TITLES[cost]}" for cost, off in self.off(arm).items())


def audit(sweep: Sweep) -> Audit:
    """Compare every arm's costs with the baseline's. A rule that this version doesn't know is taken for none."""
    baseline = sweep.arms.get(sweep.baseline)
    costs = _HELD.get(sweep.match or "none", _HELD["none"])
    found = {arm.name: _deviations(arm, baseline, costs) for arm in sweep.arms.values()} if baseline else {}
    for deviations in found.values():
        # Of the whole training only where that says more: other tokens, or a teacher's forward passes.
        per_token, total = deviations.get("flops_per_token"), deviations.get("total_flops")
        if per_token is not None and total is not None and abs(total - per_token) <= sweep.tolerance:
            del deviations["total_flops"]
    return Audit(sweep.match, sweep.tolerance, found)


def _deviations(arm: Arm, baseline: Arm, costs: tuple[str, ...]) -> dict[str, float]:
    return {
        cost: _off(arm.costs[cost], baseline.costs[cost])
        for cost in costs
        if cost in arm.costs and cost in baseline.costs
    }


def _off(value: float, held: float) -> float:
    if held:
        return value / held - 1
    return math.inf if value else 0.0


def percent(fraction: float) -> str:
    """A signed percentage with one decimal: `+3.1%`; whole above a hundred."""
    if not math.isfinite(fraction):
        return "from none to"
    return f"{100 * fraction:+.0f}%" if abs(fraction) >= 1 else f"{100 * fraction:+.1f}%"

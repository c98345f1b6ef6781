"""Plans of the sweeps that ship, made once for all tests."""

from __future__ import annotations

from functools import cache

from lab.planning.plan.build import plan_sweep
from lab.planning.plan.model import Plan


@cache
def shipped(name: str = "quickstart") -> Plan:
    """The plan of a shipped sweep, as it is without overrides."""
    return plan_sweep(name)

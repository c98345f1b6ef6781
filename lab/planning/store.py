"""A submitted sweep's plan, kept beside its runs: which of the runs below a sweep's folder are the ones now meant."""

from __future__ import annotations

from pathlib import Path

from lab.atomic import write_json
from lab.planning.plan import Plan

PLAN = "plan.json"


def save_plan(plan: Plan, root: Path) -> Path:
    """Write `<root>/<sweep>/plan.json`, in place of the plan submitted before."""
    folder = root / plan.sweep
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN, plan.as_dict())
    return folder / PLAN

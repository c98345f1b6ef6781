"""The plan with which a sweep was submitted, stored beside its runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lab.planning.plan.model import Plan
from lab.records import readable_plan, write_plan_record


def save_plan(plan: Plan, root: Path) -> Path:
    """Write `<root>/<sweep>/plan.json`, in place of the plan that was submitted before.

    `lab.dispatch.control.preparation.prepare.prepare` later records the folder of each run in it.
    """
    record, before = plan.record(), readable_plan(root, plan.sweep)
    if before is not None:
        # Keep the arms' picks, because reporting runs were made for them, and the folders of runs that lie elsewhere.
        record = replace(record, selected=before.selected).with_folders(before.folders_elsewhere(plan.sweep))
    return write_plan_record(root, plan.sweep, record)

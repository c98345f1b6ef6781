"""The plan that a sweep was submitted with, beside its runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lab.planning.plan.model import Plan
from lab.records import sound_plan, write_plan_record


def save_plan(plan: Plan, root: Path) -> Path:
    """Write `<root>/<sweep>/plan.json`, in place of the plan submitted before.

    `lab.dispatch.control.prepare.prepare` writes into it where each run stands.
    """
    record, before = plan.record(), sound_plan(root, plan.sweep)
    if before is not None:
        # What the arms picked stays on record: the reporting runs that stand were made for it. So does where runs
        # stand.
        record = replace(record, selected=before.selected).with_folders(before.elsewhere(plan.sweep))
    return write_plan_record(root, plan.sweep, record)

"""The plan that a sweep was submitted with, beside its runs."""

from __future__ import annotations

from pathlib import Path

from lab.planning.plan.model import Plan
from lab.planning.solve.selection import SELECTED, recorded_in
from lab.records import noted_folders, read_plan, write_plan_file


def save_plan(plan: Plan, root: Path) -> Path:
    """Write `<root>/<sweep>/plan.json`, in place of the plan submitted before.

    `lab.dispatch.control.prepare.prepare` writes into it where each run stands.
    """
    before = read_plan(root, plan.sweep) or {}
    # What the arms picked stays on record: the reporting runs that stand were made for it. So does where runs stand.
    picked, elsewhere = recorded_in(before), noted_folders(root, plan.sweep) if before else {}
    content = plan.as_dict()
    for row in content["runs"]:
        row["folder"] = elsewhere.get(row["identity"], row["folder"])
    return write_plan_file(root, plan.sweep, content | ({SELECTED: picked} if picked else {}))

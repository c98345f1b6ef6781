"""The arms' FLOPs a token as other codebases count them, beside the lab's own (`lab plan --flops`)."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.accounting.conventions import CONVENTIONS, conventions
from lab.planning.plan.model import Plan
from lab.planning.show.show import ROWS
from lab.units import count


def counted(plan: Plan) -> dict[str, dict[str, float]]:
    """Arm → convention → FLOPs a trained token. A model that only teaches is not in them."""
    experiments = {arm: runs[0].experiment for arm, runs in plan.arms.items()}
    return {arm: conventions(each.model, each.train.context) for arm, each in experiments.items()}


def show(plan: Plan, console: Console, *, everything: bool = False) -> None:
    """Print them, and what each convention counts. At most ROWS arms, unless `everything`."""
    by_arm = counted(plan)
    shown = list(by_arm) if everything else list(by_arm)[:ROWS]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("FLOPs/token", overflow="fold", min_width=12)
    for convention in CONVENTIONS.values():
        table.add_column(convention.title, justify="right", no_wrap=True)
    for arm in shown:
        table.add_row(Text(arm), *(count(by_arm[arm][key]) for key in CONVENTIONS))
    console.print(table)
    if len(shown) < len(by_arm):
        console.print(Text(f"… and {len(by_arm) - len(shown):,} more arms; --all shows them"))
    notes = Table.grid(padding=(0, 1))
    for convention in CONVENTIONS.values():
        notes.add_row("·", Text(f"{' '.join(convention.title.split())}: {convention.counts}. {convention.used_by}"))
    notes.add_row("·", Text("L layers that attend, H heads of size Q, a context of T tokens, N active parameters"))
    console.print(notes)

"""The arms' FLOPs a token as other codebases count them, beside the lab's own (`lab plan --flops`)."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.accounting.conventions import CONVENTIONS, conventions
from lab.planning.plan.model import Plan
from lab.planning.show.print_plan import ROWS, print_hidden, print_notes
from lab.units import count


def flops_by_convention(plan: Plan) -> dict[str, dict[str, float]]:
    """Arm → convention → FLOPs a trained token. A model that only teaches is not in them."""
    experiments = {arm: runs[0].experiment for arm, runs in plan.arms.items()}
    return {arm: conventions(each.model, each.train.context) for arm, each in experiments.items()}


def print_flops(plan: Plan, console: Console, *, everything: bool = False) -> None:
    """Print them, and what each convention counts. At most ROWS arms, unless `everything`."""
    by_arm = flops_by_convention(plan)
    shown = list(by_arm) if everything else list(by_arm)[:ROWS]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("FLOPs/token", overflow="fold", min_width=12)
    for convention in CONVENTIONS.values():
        table.add_column(convention.title, justify="right", no_wrap=True)
    for arm in shown:
        table.add_row(Text(arm), *(count(by_arm[arm][key]) for key in CONVENTIONS))
    console.print(table)
    print_hidden(len(by_arm) - len(shown), console)
    legend = [f"{' '.join(each.title.split())}: {each.counts}. {each.used_by}" for each in CONVENTIONS.values()]
    print_notes(
        [*legend, "L layers that attend, H heads of size Q, a context of T tokens, N active parameters"], console
    )

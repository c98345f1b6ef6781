"""The FLOPs per token of each arm as other codebases count them, beside the lab's own count (`lab plan --flops`)."""

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
    """Arm → convention → FLOPs per training token, without those of a teacher."""
    experiments = {arm: runs[0].experiment for arm, runs in plan.arms.items()}
    return {arm: conventions(experiment.model, experiment.train.context) for arm, experiment in experiments.items()}


def print_flops(plan: Plan, console: Console, *, everything: bool = False) -> None:
    """Print the FLOPs per token by convention, with what each counts. At most ROWS arms, unless `everything`."""
    by_arm = flops_by_convention(plan)
    arms = list(by_arm) if everything else list(by_arm)[:ROWS]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("FLOPs/token", overflow="fold", min_width=12)
    for convention in CONVENTIONS.values():
        table.add_column(convention.title, justify="right", no_wrap=True)
    for arm in arms:
        table.add_row(Text(arm), *(count(by_arm[arm][key]) for key in CONVENTIONS))
    console.print(table)
    print_hidden(len(by_arm) - len(arms), console)
    legend = [
        f"{' '.join(convention.title.split())}: {convention.counts}. {convention.used_by}"
        for convention in CONVENTIONS.values()
    ]
    symbols = "L attention layers, H heads of size Q, a context of T tokens, N active parameters"
    print_notes([*legend, symbols], console)

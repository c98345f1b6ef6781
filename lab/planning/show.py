"""A plan as a table to read: one row an arm, what it sets, what it costs, what of it is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich import box
from rich.table import Table

from lab.planning.arms import short_keys
from lab.planning.plan import Plan
from lab.units import count


def plan_table(plan: Plan, states: Mapping[str, str]) -> Table:
    """One row an arm. `states` gives what is known of a run by its identity; the others are new."""
    tokens = {run.experiment.train.steps * run.experiment.train.tokens_per_step for run in plan.runs}
    total = sum(run.total_flops for run in plan.runs)
    caption = f"{len(plan.runs)} runs, {count(total)}FLOPs in all · matched: {plan.match}"
    table = Table(title=plan.question or plan.sweep, caption=caption, box=box.SIMPLE_HEAD, title_justify="left")
    short = short_keys(plan.runs[0].axes)
    columns = ["arm", *short.values(), "seeds", "parameters", "FLOPs/token", "KV bytes/token", "tokens", "state"]
    for column in columns:
        numeric = column not in ("arm", "state", *short.values())
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for arm in dict.fromkeys(run.arm for run in plan.runs):
        runs = [run for run in plan.runs if run.arm == arm]
        first = runs[0]
        known = Counter(states.get(run.identity, "new") for run in runs)
        table.add_row(
            f"{arm} (baseline)" if arm == plan.baseline else arm,
            *("–" if first.axes[key] is None else str(first.axes[key]) for key in short),
            str(len(runs)),
            count(first.costs.parameters),
            count(first.costs.flops_per_token),
            count(first.costs.kv_bytes_per_token),
            count(max(tokens) if len(tokens) == 1 else first.experiment.train.tokens),
            ", ".join(f"{n} {state}" for state, n in known.items()),
        )
    return table

"""`lab plan SWEEP`: what would run, what it costs. Makes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import json_option, root_option


@click.command("plan")
@click.argument("sweep", shell_complete=completion.sweeps)
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@root_option
@json_option
def command(sweep: str, overrides: tuple[str, ...], root: Path, as_json: bool) -> None:
    """What SWEEP would run and what it costs; OVERRIDES apply to every arm. Creates nothing."""
    from lab.planning.plan import plan_sweep
    from lab.runs.folder import find_runs

    plan = plan_sweep(sweep, overrides)
    states = {run.identity: run.state.status for run in find_runs(root, sweep)}
    if as_json:
        click.echo(json.dumps(plan.as_dict(states), indent=1))
        return
    from lab.cli.console import console
    from lab.planning.show import plan_table

    console().print(plan_table(plan, states))

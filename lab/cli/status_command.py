"""`lab status [SWEEP]`: where the runs stand."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import json_option, root_option


@click.command("status")
@click.argument("sweep", required=False, shell_complete=completion.submitted)
@click.option("--watch", is_flag=True, help="Keep showing it until every run has ended (Ctrl-C ends it).")
@root_option
@json_option
def command(sweep: str | None, watch: bool, root: Path, as_json: bool) -> None:
    """Where the runs of SWEEP stand, or of all sweeps."""
    from lab.dispatch import status
    from lab.errors import RequestError
    from lab.runs import find_broken, find_runs

    runs = find_runs(root, sweep)
    broken = find_broken(root, sweep)
    if as_json:
        click.echo(json.dumps(status.to_json(status.rows(root, sweep), broken), indent=1))
        return
    if not runs and sweep is not None:
        raise RequestError(f"no runs of '{sweep}' in {root}; `lab submit {sweep}` starts them")
    from lab.dispatch.display import SweepDisplay, print_status

    print_status(runs, broken)
    if watch:
        with SweepDisplay(runs) as display:
            display.wait()

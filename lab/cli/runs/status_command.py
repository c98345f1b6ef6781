"""`lab status [SWEEP]`: shows the status of runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import json_option, root_option


@click.command("status")
@click.argument("sweep", required=False, shell_complete=completion.submitted)
@click.option("--watch", is_flag=True, help="Keep the table up to date until all runs have ended, or Ctrl-C.")
@click.option("--seconds", is_flag=True, help="Show where the seconds of SWEEP went, from submission to results.")
@root_option
@json_option
def command(sweep: str | None, watch: bool, seconds: bool, root: Path, as_json: bool) -> None:
    """Show the status of the runs of SWEEP, or of all sweeps, from their folders and from the cluster."""
    from lab.dispatch.status import status
    from lab.dispatch.status.cluster_view import Watch, look
    from lab.records import read_process_seconds, survey
    from lab.refusals import RequestError

    if watch and as_json:
        problem = "--json prints the present status once"
        raise RequestError(problem, kind="conflict", key="--watch", fix="leave --watch out")
    if seconds and (watch or sweep is None):
        problem = "--seconds prints the seconds of one sweep once"
        raise RequestError(problem, kind="conflict", key="--seconds", fix="name a sweep, and leave --watch out")
    sweep_runs = survey(root, sweep)
    if seconds and sweep is not None and sweep_runs.runs:
        from lab.dispatch.status.seconds import sweep_seconds, table

        totals = sweep_seconds([item.run for item in sweep_runs.runs], read_process_seconds(root / sweep))
        click.echo(json.dumps(totals.as_json(), indent=1) if as_json else table(totals))
        return
    rows = [status.row_from(snapshot) for snapshot in sweep_runs.runs]
    view = look(root, rows)
    rows, notes = view.join(rows), view.notes
    if as_json:
        click.echo(json.dumps(status.to_json(rows, sweep_runs.broken, notes), indent=1))
        return
    if not rows and sweep is not None:
        problem = f"no runs of '{sweep}' in {root}"
        raise RequestError(problem, kind="not_found", given=sweep, fix=f"`lab submit {sweep}` starts them")
    from lab.dispatch.status.table import print_rows

    if not watch:
        print_rows(rows, sweep_runs.broken, notes)
        return
    from lab.dispatch.status.display import SweepDisplay

    print_rows(rows, sweep_runs.broken, notes)
    with SweepDisplay([snapshot.run for snapshot in sweep_runs.runs], join=Watch(root).join) as display:
        display.wait()

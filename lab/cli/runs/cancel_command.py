"""`lab cancel SWEEP|RUN…`: runs checkpoint and stop, those that wait are never begun."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import json_option, root_option


@click.command("cancel")
@click.argument("names", metavar="SWEEP|RUN...", nargs=-1, required=True, shell_complete=completion.sweeps_and_runs)
@click.option("--patience", type=click.FloatRange(min=0), default=30.0, show_default=True,
              help="Seconds to wait for runs to checkpoint; then jobs are ended.")  # fmt: skip
@root_option
@json_option
def command(names: tuple[str, ...], patience: float, root: Path, as_json: bool) -> None:
    """Cancel these runs, and no others: a job goes on with the runs that it has besides.

    A run that is being trained writes a checkpoint first. What is cancelled stays so until `lab retry`; what has
    finished or failed is left as it is.
    """
    from lab.dispatch.control.cancel import cancel
    from lab.dispatch.status import status
    from lab.dispatch.status.cluster_view import look
    from lab.records import resolve_all

    runs = list(resolve_all(root, names))
    view = look(root, [status.read_row(run) for run in runs])

    def waits(count: int) -> None:
        if not as_json:
            click.echo(
                f"waiting for {count} run{'s' if count > 1 else ''} to checkpoint (Ctrl-C stops the waiting only)"
            )

    done, notes = cancel(runs, jobs=view.jobs, patience=patience, on_wait=waits)
    notes += view.notes
    if as_json:
        content = {"version": 1, "runs": [dataclasses.asdict(each) for each in done], "notes": notes}
        click.echo(json.dumps(content, indent=1))
        return
    for each in done:
        if each.did != "nothing" or len(names) == len(runs):
            click.echo(f"{each.run}: {each.did if each.did != 'nothing' else 'left as it is'}: {each.said}")
    counts = {word: sum(each.did == word for each in done) for word in ("cancelled", "stopping", "nothing")}
    click.echo(
        f"{counts['cancelled']} cancelled, {counts['stopping']} stopping, {counts['nothing']} left as they are"
        + ("; `lab retry` goes on with what is cancelled" if counts["cancelled"] else "")
    )
    for note in notes:
        click.echo(f"note: {note}", err=True)

"""`lab cancel SWEEP|RUN…`: running runs checkpoint and stop; queued runs aren't started."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import json_option, root_option

if TYPE_CHECKING:
    from lab.dispatch.control.cancel import CancelOutcome


@click.command("cancel")
@click.argument("names", metavar="SWEEP|RUN...", nargs=-1, required=True, shell_complete=completion.sweeps_and_runs)
@click.option("--patience", type=click.FloatRange(min=0), default=30.0, show_default=True,
              help="Seconds to wait for runs to checkpoint before their jobs are cancelled.")  # fmt: skip
@root_option
@json_option
def command(names: tuple[str, ...], patience: float, root: Path, as_json: bool) -> None:
    """Cancel the named runs and no others: a job that has other runs continues with them.

    A run that is being trained writes a checkpoint first. A cancelled run stays cancelled until `lab retry`. Finished
    and failed runs are left as they are.
    """
    from lab.dispatch.control.cancel import cancel
    from lab.dispatch.status import status
    from lab.dispatch.status.cluster_view import look
    from lab.records import resolve_all
    from lab.units import plural

    runs = list(resolve_all(root, names))
    view = look(root, [status.read_row(run) for run in runs])

    def print_wait(count: int) -> None:
        if not as_json:
            click.echo(f"waiting for {plural(count, 'run')} to checkpoint (Ctrl-C ends only the wait)")

    outcomes, notes = cancel(runs, jobs=view.jobs, patience=patience, on_wait=print_wait)
    notes += view.notes
    if as_json:
        content = {"version": 1, "runs": [_as_dict(outcome) for outcome in outcomes], "notes": notes}
        click.echo(json.dumps(content, indent=1))
        return
    for outcome in outcomes:
        if outcome.action != "nothing" or len(names) == len(runs):
            action = outcome.action if outcome.action != "nothing" else "left as it is"
            click.echo(f"{outcome.run}: {action}: {outcome.message}")
    counts = Counter(outcome.action for outcome in outcomes)
    click.echo(
        f"{counts['cancelled']} cancelled, {counts['stopping']} stopping, {counts['nothing']} left as they are"
        + ("; `lab retry` continues cancelled runs" if counts["cancelled"] else "")
    )
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _as_dict(outcome: CancelOutcome) -> dict[str, str]:
    return {"run": outcome.run, "did": outcome.action, "said": outcome.message}

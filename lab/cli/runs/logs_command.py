"""`lab logs RUN`: prints the log of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import root_option

if TYPE_CHECKING:
    from lab.dispatch.status.status import StatusRow


@click.command("logs")
@click.argument("run", metavar="RUN", shell_complete=completion.runs)
@click.option("--follow", "-f", is_flag=True, help="Print new lines until the run ends, also after a requeue.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Only the N-th attempt.")
@click.option("--lines", "-n", type=click.IntRange(min=0), metavar="LINES", help="Only the last LINES lines.")
@root_option
def command(run: str, follow: bool, attempt: int | None, lines: int | None, root: Path) -> None:
    """Print the output of all attempts at RUN, or the output of its cluster job if the run printed nothing."""
    from lab.dispatch.status import logs, status, table
    from lab.dispatch.status.cluster_view import Watch
    from lab.records import resolve
    from lab.refusals import RequestError

    if follow and attempt is not None:
        problem = "--attempt prints one attempt, and --follow continues over all"
        raise RequestError(problem, kind="conflict", fix="use one of them")
    folder = resolve(root, run)
    watch = Watch(root)

    def look() -> StatusRow:
        return watch.join([status.read_row(folder)])[0]

    def print_row(row: StatusRow) -> None:
        click.echo(table.line(row), err=True)

    output = (
        logs.follow(folder, look, last=lines, on_wait=print_row)
        if follow
        else logs.lines_of(folder, attempt=attempt, last=lines)
    )
    is_empty = True
    for line in output:
        click.echo(line)
        is_empty = False
    row = look()
    job_failed = row.job is not None and row.status in ("failed", "lost") and attempt is None
    if job_failed or (is_empty and not follow):
        for line in logs.job_output(watch.output_files(row), lines):
            click.echo(line)
    if is_empty or follow:
        print_row(row)

"""`lab logs RUN`: what a run said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import root_option

if TYPE_CHECKING:
    from lab.dispatch.status.status import Row


@click.command("logs")
@click.argument("run", metavar="RUN", shell_complete=completion.runs)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written, over requeues, until the run ends.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="The N-th attempt only.")
@click.option("--lines", "-n", type=click.IntRange(min=0), metavar="LINES", help="The last LINES lines only.")
@root_option
def command(run: str, follow: bool, attempt: int | None, lines: int | None, root: Path) -> None:
    """What RUN said, all attempts one after the other; where it said nothing, what its job on the cluster said."""
    from lab.dispatch.status import logs, status
    from lab.dispatch.status.cluster_view import Watch
    from lab.records import resolve
    from lab.refusals import RequestError

    if follow and attempt is not None:
        raise RequestError(
            "--attempt shows what is there of one attempt, and --follow goes on over all: use one of them"
        )
    folder = resolve(root, run)
    if not follow:
        said = logs.lines_of(folder, attempt=attempt, last=lines)
        for line in said:
            click.echo(line)
        (row,) = Watch(root).join([status.row(folder)])
        if not said or (row.job is not None and row.status in ("failed", "lost") and attempt is None):
            _print_job_output(row, root, lines)
        if not said:
            click.echo(_standing(row), err=True)
        return
    watch = Watch(root)

    def look() -> Row:
        return watch.join([status.row(folder)])[0]

    for line in logs.follow(folder, look, last=lines, on_wait=lambda row: click.echo(_standing(row), err=True)):
        click.echo(line)
    row = look()
    if row.job is not None and row.status in ("failed", "lost"):
        _print_job_output(row, root, lines)
    click.echo(_standing(row), err=True)


def _print_job_output(row: Row, root: Path, lines: int | None) -> None:
    from lab.dispatch.status import logs
    from lab.dispatch.status.cluster_view import look

    for line in logs.job_output(look(root, [row]).output_files(row), lines):
        click.echo(line)


def _standing(row: Row) -> str:
    from lab.dispatch.status.table import line

    return line(row)

"""`lab report SWEEP`: a sweep as one HTML file to show to others."""

from __future__ import annotations

from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import root_option


@click.command("report")
@click.argument("sweep", shell_complete=completion.submitted)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write; by default <root>/SWEEP/report.html. One that is there is replaced.",
)
@root_option
def command(sweep: str, out: Path | None, root: Path) -> None:
    """One self-contained HTML file about SWEEP, made of its runs as they stand now, finished or not."""
    from lab.atomic import write_text
    from lab.comparison.report.page import report
    from lab.errors import RequestError

    place = out or root / sweep / "report.html"
    if place.is_dir():
        raise RequestError(f"--out: {place} is a folder; name a file in it, such as {place / f'{sweep}.html'}")
    if out is not None and not place.parent.is_dir():
        raise RequestError(f"--out: there is no folder {place.parent}")
    text = report(root, sweep)
    try:
        write_text(place, text)
    except OSError as error:
        raise RequestError(f"--out: {place} can't be written: {error.strerror or error}") from None
    click.echo(f"Wrote {place} ({len(text.encode()) / 1e6:.1f} MB)")

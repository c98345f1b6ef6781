"""`lab report SWEEP`: a sweep as one HTML file to show to others."""

from __future__ import annotations

from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import root_option

_PAGE = b"<!doctype html>"


@click.command("report")
@click.argument("sweep", shell_complete=completion.submitted)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write; by default <root>/SWEEP/report.html. An older page is replaced.",
)
@root_option
def command(sweep: str, out: Path | None, root: Path) -> None:
    """One self-contained HTML file about SWEEP, made of its runs as they stand now, finished or not."""
    from lab.records import write_text
    from lab.refusals import RequestError
    from lab.report.page import report

    if out is not None:
        refuse_place(out, sweep)
    text = report(root, sweep)
    place = out or root / sweep / "report.html"
    try:
        write_text(place.resolve(), text)  # a link stays one, to the new page
    except OSError as error:
        why = f"{place} can't be written: {error.strerror or error}"
        raise RequestError(f"--out: {why}" if out else f"{why}; name another with --out") from None
    click.echo(f"Wrote {place} ({len(text.encode()) / 1e6:.1f} MB)")


def refuse_place(place: Path, sweep: str) -> None:
    """Refuse to write a report where it would take the place of anything but an older page.

    Raises:
        RequestError: there is a folder, a device, or a file of another sort, or no folder to write to.
    """
    from lab.refusals import RequestError

    try:
        if place.is_dir():
            raise RequestError(f"--out: {place} is a folder; name a file in it, such as {place / f'{sweep}.html'}")
        if not place.resolve().parent.is_dir():
            raise RequestError(f"--out: there is no folder {place.parent}")
        if place.exists() and not _is_page(place):
            raise RequestError(f"--out: {place} is there and is no page; name another file, such as {sweep}.html")
    except OSError as error:
        raise RequestError(f"--out: {place}: {error.strerror or error}") from None


def _is_page(place: Path) -> bool:
    """Whether it is an HTML file, or an empty one."""
    if not place.is_file():
        return False
    with place.open("rb") as file:
        return file.read(len(_PAGE)).lower() in (_PAGE, b"")

"""`lab report SWEEP`: writes the results of a sweep to one HTML file."""

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
    help="File to write; an older report is replaced.  [default: <root>/SWEEP/report.html]",
)
@root_option
def command(sweep: str, out: Path | None, root: Path) -> None:
    """Write one self-contained HTML file about SWEEP, from its runs in their present state, finished or not."""
    from lab.records import write_text
    from lab.refusals import RequestError
    from lab.report.page import report

    if out is not None:
        check_output(out, sweep)
    text = report(root, sweep)
    path = out or root / sweep / "report.html"
    try:
        write_text(path.resolve(), text)  # a link is kept, and points to the new page
    except OSError as error:
        why = f"{path} can't be written: {error.strerror or error}"
        raise RequestError(f"--out: {why}" if out else f"{why}; name another with --out") from None
    click.echo(f"Wrote {path} ({len(text.encode()) / 1e6:.1f} MB)")


def check_output(path: Path, sweep: str) -> None:
    """Refuse a path at which a report would overwrite anything but an older report.

    Raises:
        RequestError: it is a folder, a device or another kind of file, or its folder doesn't exist.
    """
    from lab.refusals import RequestError

    try:
        if path.is_dir():
            raise RequestError(f"--out: {path} is a folder; name a file in it, such as {path / f'{sweep}.html'}")
        if not path.resolve().parent.is_dir():
            raise RequestError(f"--out: there is no folder {path.parent}")
        if path.exists() and not _is_page(path):
            raise RequestError(f"--out: {path} exists and isn't an HTML page; name another file, such as {sweep}.html")
    except OSError as error:
        raise RequestError(f"--out: {path}: {error.strerror or error}") from None


def _is_page(path: Path) -> bool:
    """Whether the file is an HTML page, or empty."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_PAGE)).lower() in (_PAGE, b"")

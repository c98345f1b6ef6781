"""`lab tensorboard SWEEP…`: shows runs in TensorBoard, named by arm and seed."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import root_option


@click.command("tensorboard")
@click.argument("sweeps", nargs=-1, required=True, shell_complete=completion.submitted)
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port on this machine.  [default: the first free one from 6006]"
)
@click.option("--build-only", is_flag=True, help="Build the log folder and print its path; start no server.")
@root_option
def command(sweeps: tuple[str, ...], port: int | None, build_only: bool, root: Path) -> None:
    """Show the runs of SWEEPS in TensorBoard until Ctrl-C. Only this machine can connect."""
    from lab.comparison.tensorboard.serve import build_view, serve

    own = _own_views()
    view = build_view(root, sweeps, own)
    if not view.is_relative_to(root):
        click.echo(f"this user can't write to {root}: the log folder is {click.format_filename(view)}", err=True)
    if build_only:
        click.echo(os.fsencode(view))
        return
    serve(view, port, refresh=lambda: build_view(root, sweeps, own), echo=click.echo)


def _own_views() -> Path | None:
    """The folder for views of a root that this user can only read; None for a user without a home folder."""
    from lab.data.cache import default_cache

    try:
        return default_cache() / "views"
    except RuntimeError:
        return None

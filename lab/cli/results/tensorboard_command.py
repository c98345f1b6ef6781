"""`lab tensorboard SWEEP…`: the runs in TensorBoard, arms and seeds named."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import root_option


@click.command("tensorboard")
@click.argument("sweeps", nargs=-1, required=True, shell_complete=completion.submitted)
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port on this machine; by default the first free from 6006."
)
@click.option("--build-only", is_flag=True, help="Build the view, print where it is, and start no server.")
@root_option
def command(sweeps: tuple[str, ...], port: int | None, build_only: bool, root: Path) -> None:
    """Show the runs of SWEEPS in TensorBoard, on this machine only, until Ctrl-C."""
    from lab.comparison.tensorboard.serve import build_view, serve

    own = _own_views()
    view = build_view(root, sweeps, own)
    if not view.is_relative_to(root):
        click.echo(f"{root} can't be written by this user: the view is {click.format_filename(view)}", err=True)
    if build_only:
        click.echo(os.fsencode(view))
        return
    serve(view, port, refresh=lambda: build_view(root, sweeps, own), echo=click.echo)


def _own_views() -> Path | None:
    """Where views are built of a root that this user may only read; None where no folder is the user's own."""
    from lab.data.cache import default_cache

    try:
        return default_cache() / "views"
    except RuntimeError:  # a user without a home
        return None

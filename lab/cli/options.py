"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from lab.cli.refusal_output import Choice

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="LAB_ROOT",
    default="runs",
    show_default=True,
    help="Folder that holds the run folders (or LAB_ROOT).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
accelerator_option = click.option(
    "--accelerator",
    type=Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a CUDA device if there is one.",
)

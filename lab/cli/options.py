"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from lab.cli import completion
from lab.cli.refusal_output import NameChoice

Command = TypeVar("Command", bound=Callable[..., object])

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="LAB_ROOT",
    default="runs",
    show_default=True,
    help="Folder of the run folders. LAB_ROOT sets it too.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
accelerator_option = click.option(
    "--accelerator",
    type=NameChoice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device to compute on. auto uses a CUDA device if there is one.",
)
launcher_option = click.option(
    "--launcher", "settings", metavar="NAME", help="Read the launcher's settings from launchers/NAME.yaml."
)
max_parallel_option = click.option(
    "--max-parallel",
    type=click.IntRange(min=1),
    help="Number of parallel runs on this machine, at most.  [default: one per GPU, or per core without GPUs]",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads of each run on this machine.  [default: an equal share of the cores]",
)


def on_option(help: str, default: str | None = None) -> Callable[[Command], Command]:
    """The option `--on LAUNCHER`, with this help text and default."""
    return click.option(
        "--on",
        "where",
        metavar="LAUNCHER",
        default=default,
        show_default=default is not None,
        help=help,
        shell_complete=completion.launchers,
    )

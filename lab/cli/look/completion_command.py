"""`lab completion`: prints the script that switches on completion with the Tab key."""

from __future__ import annotations

import os
from pathlib import PurePath

import click

from lab.cli import COMPLETION_VARIABLE, completion
from lab.cli.refusal_output import NameChoice

SHELLS = tuple(completion.SHELLS)


@click.command("completion")
@click.argument("shell", type=NameChoice(SHELLS), required=False)
@click.pass_context
def command(context: click.Context, shell: str | None) -> None:
    """Print the script that completes names with the Tab key in SHELL, by default that of the variable SHELL.

    \b
    bash, zsh:  eval "$(lab completion)"       in ~/.bashrc or ~/.zshrc
    fish:       lab completion | source        in ~/.config/fish/config.fish
    """
    from lab.cli import names
    from lab.refusals import RequestError

    shell = shell or PurePath(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        problem = (
            "the variable SHELL names no shell that can be completed for" if shell else "the variable SHELL is empty"
        )
        raise RequestError(problem, kind="missing", key="SHELL", expected=SHELLS, fix="name one: lab completion bash")
    completer = completion.SHELLS[shell]
    click.echo(completer(context.find_root().command, {}, "lab", COMPLETION_VARIABLE).source())
    names.refresh_in_background()  # the first press of the Tab key then finds the names

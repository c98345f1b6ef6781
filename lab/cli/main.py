"""The `lab` command itself: finds its commands without importing them, and speaks to users when they err."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from lab.cli.refusal_output import CommandGroup, print_refusal, refusal_of
from lab.refusals import RequestError

COMPLETE = "_LAB_COMPLETE"
"""The environment variable by which shells ask for completions."""

COMMANDS = {
    "list": "What there is: components, experiments, sweeps, kernels, evaluators.",
    "train": "Train one run here, with a progress bar.",
    "plan": "What a sweep would run and what it costs.",
    "submit": "Send a sweep to run; safe to repeat.",
    "status": "Where the runs of a sweep stand.",
    "logs": "What a run said.",
    "cancel": "Stop runs, with a checkpoint.",
    "retry": "Try runs again, by what became of them.",
    "doctor": "What this machine and its cluster offer, and what is in the way.",
    "bench": "Measure what this machine computes with: attention kernels.",
    "why": "What makes two runs different, or a run be run anew.",
    "compare": "The table of a sweep's arms.",
    "report": "A sweep as one HTML file, to show to others.",
    "tensorboard": "Look at a sweep's runs in TensorBoard.",
    "eval": "Measure a trained or imported model.",
    "generate": "Text from a trained or imported model.",
    "import": "A Hugging Face model as a run.",
    "export": "A run's model as a Hugging Face folder.",
}

FOLDERS = {
    "look": ("list", "plan", "why", "doctor", "bench"),
    "runs": ("train", "submit", "status", "logs", "cancel", "retry"),
    "results": ("compare", "report", "tensorboard"),
    "models": ("eval", "generate", "import", "export"),
}
"""Folder below `lab.cli` → the commands in it."""


class LazyGroup(CommandGroup):
    """A group whose commands live in `lab.cli.<folder>.<name>_command` and are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        folder = next(folder for folder, names in FOLDERS.items() if cmd_name in names)
        command = import_module(f"lab.cli.{folder}.{cmd_name}_command").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Exit codes: 0 done, 1 the work failed, 2 the request was wrong. With --json a refusal is JSON too, on "
        'standard output: {"error": {"kind", "file", "line", "key", "given", "expected", "nearest", "fix", …}}.\n\n'
        'Completion: eval "$(_LAB_COMPLETE=bash_source lab)" (or zsh_source, fish_source).'
    ),
)
@click.version_option(package_name="architecture-ablation-lab", prog_name="lab")
def cli() -> None:
    """A modular architecture-ablation lab for language models."""


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 the work failed, 2 the request was wrong.

    A refusal goes to standard error as text, `lab: place: problem; fix`. Where --json is among the arguments it goes
    to standard output as JSON, where a program reads what it asked for: `{"error": {"kind", "file", "line", "key",
    "given", "expected", "nearest", "fix", "message", …}}`. docs/refusals.md describes the fields.
    """
    try:
        if COMPLETE in os.environ:
            import_module("lab.cli.completion")  # before click asks for it: its own knows nothing of `=` in words
        cli(prog_name="lab", complete_var=COMPLETE, standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        click.echo("lab: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        print_refusal(refusal)
        sys.exit(2)


def _refusal(error: Exception) -> RequestError | None:
    """The refusal that an exception is: of a request, of an argument, or of a mistake in the user's own components."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, click.ClickException):
        return refusal_of(error)
    extensions = sys.modules.get("lab.composition.extensions")
    return None if extensions is None else extensions.refusal_of(error)


if __name__ == "__main__":
    main()

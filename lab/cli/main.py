"""The `lab` command. It lists its subcommands without importing them, and prints refusals."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from lab.cli import COMPLETION_VARIABLE
from lab.cli.refusal_output import CommandGroup, print_refusal, refusal_of
from lab.refusals import RequestError

COMMANDS = {
    "list": "List components, experiments, sweeps, kernels or evaluators.",
    "train": "Train one run on this machine.",
    "plan": "Show what a sweep would run, and what it costs.",
    "submit": "Run a sweep, here or on a cluster. Safe to repeat.",
    "status": "Show the status of runs.",
    "logs": "Print the log of a run.",
    "cancel": "Stop runs after a checkpoint.",
    "retry": "Run again what failed, was lost or was stopped.",
    "data": "Show what would be read of your files: documents, tokens, and what is left out.",
    "doctor": "Check this machine and its launchers for problems.",
    "bench": "Benchmark the attention kernels on this machine.",
    "why": "Explain why two runs differ, or why a run would be run again.",
    "compare": "Compare the arms of a sweep in a table.",
    "report": "Write a sweep's results to one HTML file.",
    "tensorboard": "Show the runs of a sweep in TensorBoard.",
    "eval": "Evaluate trained or imported models.",
    "generate": "Generate text with a trained or imported model.",
    "import": "Import a Hugging Face model as a run.",
    "export": "Export a run's model as a Hugging Face folder.",
    "completion": "Print the script that completes names with the Tab key.",
}

FOLDERS = {
    "look": ("list", "plan", "why", "data", "doctor", "bench", "completion"),
    "runs": ("train", "submit", "status", "logs", "cancel", "retry"),
    "results": ("compare", "report", "tensorboard"),
    "models": ("eval", "generate", "import", "export"),
}
"""Package below `lab.cli` → its commands."""


class LazyGroup(CommandGroup):
    """A group that imports a command, `lab.cli.<folder>.<name>_command`, only when it is called."""

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
        "Exit codes: 0 done, 1 the work failed, 2 the request was wrong. With --json, a refusal is printed as JSON to "
        'standard output: {"error": {"kind", "file", "line", "key", "given", "expected", "nearest", "fix", …}}.\n\n'
        'To complete names with the Tab key: eval "$(lab completion)".'
    ),
)
@click.version_option(package_name="architecture-ablation-lab", prog_name="lab")
def cli() -> None:
    """A lab for architecture ablations of language models."""


def main() -> None:
    """The entry point of `lab`. Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted.

    A refusal is printed to standard error as text, `lab: place: problem; fix`. With --json among the arguments it is
    printed to standard output as JSON, where a program reads its answers: `{"error": {"kind", "file", "line", "key",
    "given", "expected", "nearest", "fix", "message", …}}`. docs/refusals.md describes the fields.
    """
    try:
        if COMPLETION_VARIABLE in os.environ:
            import_module("lab.cli.completion")  # registers completion for words that contain `=`
        cli(prog_name="lab", complete_var=COMPLETION_VARIABLE, standalone_mode=False)
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
    """The refusal behind an exception; None if it is a bug. Mistakes in the user's own components are refusals."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, click.ClickException):
        return refusal_of(error)
    extensions = sys.modules.get("lab.composition.extensions")
    return None if extensions is None else extensions.refusal_of(error)


if __name__ == "__main__":
    main()

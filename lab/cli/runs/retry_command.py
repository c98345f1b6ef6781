"""`lab retry SWEEP|RUN…`: runs again what failed, was lost or was stopped, by the kind of failure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import click

from lab.cli import completion
from lab.cli.options import launcher_option, max_parallel_option, on_option, root_option, threads_option


@click.command("retry")
@click.argument("arguments", metavar="SWEEP|RUN... [KEY=VALUE]...", nargs=-1, required=True,
                shell_complete=completion.sweeps_and_runs)  # fmt: skip
@click.option("--failed", is_flag=True, help="Also retry runs that failed because of a bug.")
@on_option("Launcher to use.  [default: the one that ran it before]")
@launcher_option
@max_parallel_option
@threads_option
@click.option("--any-code", is_flag=True, help="Also retry runs that were made with other code.")
@click.option("--components", type=click.Choice(["current", "frozen"]),
              help="The lab_components.py to use, if you edited it: the current one, or each run's copy.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only print which runs would be retried, and why not the others.")
@root_option
def command(
    arguments: tuple[str, ...],
    failed: bool,
    where: str | None,
    settings: str | None,
    max_parallel: int | None,
    threads: int | None,
    any_code: bool,
    components: Literal["current", "frozen"] | None,
    dry_run: bool,
    root: Path,
) -> None:
    """Run again what failed, was lost or was stopped. Runs that aren't retried are listed with the reason.

    \b
    Which runs are retried:
      preempted, lost, cancelled  always
      disk full                   once there is room
      time limit                  from a checkpoint, or with more time
      out of memory               with a changed setting, such as
                                  train.micro_batch=4 or launcher.memory=64G
      bug                         if RUN is named, or with --failed
      diverged, finished          never: that is their result

    A run that failed by a bug starts over with lab_components.py as it is now. All other runs continue with the copy
    of it in their folder.

    KEY=VALUE changes a setting that doesn't affect the result, or an option of the launcher.
    """
    from lab.dispatch.control.retry import RetryOptions, retry

    names, overrides = _split(arguments)
    options = RetryOptions(
        overrides=overrides,
        launcher=where,
        flags={"--launcher": settings, "--max-parallel": max_parallel, "--threads": threads},
        failed=failed,
        any_code=any_code,
        dry_run=dry_run,
        components=components,
    )
    sys.exit(retry(root, names, options, say=click.echo, warn=partial(click.echo, err=True)))


def _split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Split names of sweeps and runs from overrides. The name of a run may contain `=` after a slash."""
    overrides = [text for text in arguments if "=" in text and "/" not in text.partition("=")[0]]
    return [text for text in arguments if text not in overrides], tuple(overrides)

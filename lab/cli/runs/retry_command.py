"""`lab retry SWEEP|RUN…`: try runs again, by what became of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import launcher_option, max_parallel_option, on_option, root_option, threads_option


@click.command("retry")
@click.argument("arguments", metavar="SWEEP|RUN... [KEY=VALUE]...", nargs=-1, required=True,
                shell_complete=completion.sweeps_and_runs)  # fmt: skip
@click.option("--failed", is_flag=True, help="Also what failed by a bug.")
@on_option("Where to run; by default where it was.")
@launcher_option
@max_parallel_option
@threads_option
@click.option("--any-code", is_flag=True, help="Also what was made with other code than this.")
@click.option("--dry-run", is_flag=True, help="Only say what would be tried again, and what not, and why.")
@root_option
def command(
    arguments: tuple[str, ...],
    failed: bool,
    where: str | None,
    settings: str | None,
    max_parallel: int | None,
    threads: int | None,
    any_code: bool,
    dry_run: bool,
    root: Path,
) -> None:
    """Try runs again, by what became of them; what is left alone is listed, with what would have it tried again.

    Preempted, lost and cancelled runs always; a full disk once there is room; a time limit with a checkpoint to go on
    from, or more time; out of memory with a changed setting (train.micro_batch=…, launcher.memory=…); a bug if its RUN
    is named, or with --failed; diverged and finished runs never, as that is their result. KEY=VALUE changes a setting
    that doesn't affect the result, or one of the launcher.
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
    )
    sys.exit(retry(root, names, options, say=click.echo, warn=partial(click.echo, err=True)))


def _split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Sweeps and runs, and overrides. Names of runs may hold `=`, behind a slash."""
    overrides = [text for text in arguments if "=" in text and "/" not in text.partition("=")[0]]
    return [text for text in arguments if text not in overrides], tuple(overrides)

"""`lab submit SWEEP`: make what is missing and run it. Repeating it repeats nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import root_option


@click.command("submit")
@click.argument("sweep", shell_complete=completion.sweeps)
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option(
    "--on", "launcher", type=click.Choice(["local"]), default="local", show_default=True, help="Where to run."
)
@click.option("--max-parallel", type=click.IntRange(min=1), help="Runs at once; by default one a GPU, or a core.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of each run; by default an equal share.")
@click.option("--retry-failed", is_flag=True, help="Also run again what failed.")
@root_option
def command(
    sweep: str,
    overrides: tuple[str, ...],
    launcher: str,
    max_parallel: int | None,
    threads: int | None,
    retry_failed: bool,
    root: Path,
) -> None:
    """Run what is missing of SWEEP; OVERRIDES apply to every arm. Safe to repeat, and after a Ctrl-C or a crash."""
    from rich.console import Console

    from lab.dispatch.display import SweepDisplay
    from lab.dispatch.submit import launch, prepare
    from lab.planning.plan import plan_sweep
    from lab.planning.store import save_plan

    plan = plan_sweep(sweep, overrides)
    save_plan(plan, root)
    submission = prepare(plan.runs, root, retry_failed=retry_failed)
    click.echo(f"{sweep}: {submission.describe()}")
    if warning := submission.warning():
        click.echo(f"note: {warning}", err=True)
    if not submission.to_run and not submission.elsewhere:
        sys.exit(1 if submission.failed else 0)

    console = Console()
    with SweepDisplay(submission.order, console=console):
        summary = launch(submission, max_parallel=max_parallel, threads=threads)
    if summary.stopped:
        click.echo(f"stopped by {summary.stopped}; `lab submit {sweep}` goes on with what is missing", err=True)
        sys.exit(130 if summary.stopped == "SIGINT" else 1)
    failed = [name for name, status in summary.ran.items() if status in ("failed", "lost")]
    for name in failed:
        click.echo(f"failed: {name}: see {root / name / 'log.txt'}", err=True)
    sys.exit(1 if failed else 0)

"""`lab submit SWEEP`: starts the runs that have no result yet. Safe to repeat."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import launcher_option, max_parallel_option, on_option, root_option, threads_option

if TYPE_CHECKING:
    from lab.planning.plan.model import Plan


@click.command("submit")
@click.argument("sweep", metavar="SWEEP|PLAN.json", shell_complete=completion.sweeps)
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@on_option("local, slurm, or the launcher of an installed package.", default="local")
@launcher_option
@click.option("--show-sbatch", is_flag=True, help="Print the batch scripts and send nothing.")
@click.option("--wait", is_flag=True, help="Wait until all runs have ended, as always on this machine.")
@max_parallel_option
@threads_option
@click.option("--retry-failed", is_flag=True, help="Also run failed runs again.")
@click.option("--reselect", is_flag=True, help="Select tuned values again, also for arms that have runs with them.")
@click.option("--any-code", is_flag=True, help="Also start runs that were made with other code.")
@root_option
def command(
    sweep: str,
    overrides: tuple[str, ...],
    where: str,
    settings: str | None,
    show_sbatch: bool,
    wait: bool,
    max_parallel: int | None,
    threads: int | None,
    retry_failed: bool,
    reselect: bool,
    any_code: bool,
    root: Path,
) -> None:
    """Start the runs of SWEEP, or of a plan from `lab plan --save`, that have no result yet.

    OVERRIDES apply to every arm. Among them, launcher.KEY=VALUE sets an option of the launcher, such as the resources
    of a job. On a cluster the command sends the runs and returns.

    It is safe to repeat the command, also after Ctrl-C or a crash. If the sweep tunes options, the tuning runs come
    first, then the runs with the values that each arm selected.
    """
    from lab.dispatch.control.choose import choose
    from lab.dispatch.control.submit import SubmitOptions, preview, submit
    from lab.dispatch.launchers.options import split
    from lab.dispatch.process_clock import ProcessClock

    clock = ProcessClock("submit")
    overrides, launcher_overrides = split(overrides)
    flags = {
        "--launcher": settings,
        "--show-sbatch": show_sbatch,
        "--max-parallel": max_parallel,
        "--threads": threads,
    }
    launcher = choose(where, launcher_overrides, flags)
    clock.enter("planning")
    plan = _plan(sweep, overrides, root)
    options = SubmitOptions(retry_failed=retry_failed, any_code=any_code, reselect=reselect, wait=wait)
    if show_sbatch:
        batch = preview(plan, root, launcher, options)
        for note in batch.notes:
            click.echo(f"note: {note}", err=True)
        click.echo(batch.text, nl=False)
        return
    clock.enter("preparation")
    try:
        with clock.running():
            code = submit(plan, root, launcher, options, say=click.echo, warn=partial(click.echo, err=True))
    finally:
        clock.write(root / plan.sweep)
    sys.exit(code)


def _plan(sweep: str, overrides: tuple[str, ...], root: Path) -> Plan:
    from lab.planning.plan.build import plan_sweep
    from lab.planning.plan.plan_file import load_plan
    from lab.refusals import RequestError

    if not sweep.endswith(".json") and not Path(sweep).is_file():
        return plan_sweep(sweep, overrides, root=root)
    if overrides:
        problem = f"{sweep} is a frozen plan"
        raise RequestError(problem, override=overrides[0], fix="plan the sweep again with this override")
    return load_plan(Path(sweep))

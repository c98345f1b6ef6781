"""`lab submit SWEEP`: make what is missing and run it. Repeating it repeats nothing."""

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
@on_option("Where to run: local, slurm, or a launcher of an installed package.", default="local")
@launcher_option
@click.option("--show-sbatch", is_flag=True, help="Print the batch scripts that would be sent, and send nothing.")
@click.option("--wait", is_flag=True, help="Return when all is done. On this machine that is always so.")
@max_parallel_option
@threads_option
@click.option("--retry-failed", is_flag=True, help="Also run again what failed.")
@click.option("--reselect", is_flag=True, help="Pick the tuned values anew, also where their runs stand.")
@click.option("--any-code", is_flag=True, help="Run also where the code is not the one that the plan was made with.")
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
    """Run what is missing of SWEEP, or of a plan that `lab plan --save` wrote; OVERRIDES apply to every arm.

    A cluster is sent the runs, and this returns at once; launcher.KEY=VALUE among the overrides sets an option of the
    launcher, such as what a job asks for.

    Safe to repeat, and after a Ctrl-C or a crash. Where the sweep tunes, its tuning runs come first, then the runs of
    what each arm picked.
    """
    from lab.dispatch.control.choose import choose
    from lab.dispatch.control.submit import SubmitOptions, preview, submit
    from lab.dispatch.launchers.options import split

    overrides, of_launcher = split(overrides)
    flags = {
        "--launcher": settings,
        "--show-sbatch": show_sbatch,
        "--max-parallel": max_parallel,
        "--threads": threads,
    }
    launcher = choose(where, of_launcher, flags)
    plan = _plan(sweep, overrides, root)
    options = SubmitOptions(retry_failed=retry_failed, any_code=any_code, reselect=reselect, wait=wait)
    if show_sbatch:
        shown = preview(plan, root, launcher, options)
        for note in shown.notes:
            click.echo(f"note: {note}", err=True)
        click.echo(shown.text, nl=False)
        return
    sys.exit(submit(plan, root, launcher, options, say=click.echo, warn=partial(click.echo, err=True)))


def _plan(sweep: str, overrides: tuple[str, ...], root: Path) -> Plan:
    from lab.planning.plan.build import plan_sweep
    from lab.planning.plan.plan_file import load_plan
    from lab.refusals import RequestError

    if not sweep.endswith(".json") and not Path(sweep).is_file():
        return plan_sweep(sweep, overrides, root=root)
    if overrides:
        raise RequestError(f"override '{overrides[0]}': {sweep} is a frozen plan; plan the sweep anew with it")
    return load_plan(Path(sweep))

"""`lab submit SWEEP`: make what is missing and run it. Repeating it repeats nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import root_option

if TYPE_CHECKING:
    from lab.dispatch.control.prepare import Submission
    from lab.dispatch.control.stages import Stages
    from lab.planning.plan.model import Plan
    from lab.records import RunFolder


@click.command("submit")
@click.argument("sweep", metavar="SWEEP|PLAN.json", shell_complete=completion.sweeps)
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option(
    "--on", "where", type=click.Choice(["local", "slurm"]), default="local", show_default=True, help="Where to run."
)
@click.option("--launcher", metavar="NAME", help="Settings for SLURM: launchers/NAME.yaml; by default slurm.")
@click.option("--show-sbatch", is_flag=True, help="Print what would be sent to SLURM, and send nothing.")
@click.option("--wait", is_flag=True, help="On SLURM: return when all is done. Here that is always so.")
@click.option("--max-parallel", type=click.IntRange(min=1), help="Runs at once; by default one a GPU, or a core.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of each run; by default an equal share.")
@click.option("--retry-failed", is_flag=True, help="Also run again what failed.")
@click.option("--reselect", is_flag=True, help="Pick the tuned values anew, also where their runs stand.")
@click.option("--any-code", is_flag=True, help="Run also where the code is not the one that the plan was made with.")
@root_option
def command(
    sweep: str,
    overrides: tuple[str, ...],
    where: str,
    launcher: str | None,
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

    On SLURM it is sent, and this returns at once; launcher.KEY=VALUE among the overrides changes what a job asks for.

    Safe to repeat, and after a Ctrl-C or a crash. Where the sweep tunes, its tuning runs come first, then the runs of
    what each arm picked.
    """
    overrides, of_launcher = _apart(overrides)
    if where == "slurm":
        _refuse_local(max_parallel, threads)
        from lab.cli.runs import submit_on_slurm
        from lab.dispatch.launchers.slurm.send import settings as slurm

        settings = slurm.load(launcher or "slurm", of_launcher)
        plan = _plan(sweep, overrides, root)
        if show_sbatch:
            submit_on_slurm.show(plan, root, settings, retry_failed=retry_failed)
            return
        submit_on_slurm.submit(
            plan, root, settings, reselect=reselect, wait=wait, retry_failed=retry_failed, any_code=any_code
        )
    _refuse_slurm(launcher, show_sbatch, of_launcher)

    from rich.console import Console

    from lab.dispatch.control.prepare import launch
    from lab.dispatch.control.stages import Stages
    from lab.dispatch.status.display import SweepDisplay

    plan = _plan(sweep, overrides, root)
    stages = Stages(plan, root, retry_failed=retry_failed, any_code=any_code, reselect=reselect)
    submission = stages.next()
    assert submission is not None
    click.echo(f"{plan.sweep}: {submission.describe()}")
    if warning := submission.warning():
        click.echo(f"note: {warning}", err=True)
    for line in stages.news():
        click.echo(line)
    if not submission.to_run and not submission.elsewhere:
        _say_blocked(submission.blocked)
        sys.exit(_code(stages, bool(submission.failed or submission.blocked)))

    failed: list[str] = []
    blocked: list[RunFolder] = []
    refused: dict[str, str] = {}
    with SweepDisplay(submission.order, console=Console()) as display:
        following: Submission | None = submission
        while following is not None:
            summary = launch(following, max_parallel=max_parallel, threads=threads)
            failed += [name for name, status in summary.ran.items() if status in ("failed", "lost")]
            stuck = {name for name, status in (summary.found | summary.ran).items() if status == "blocked"}
            blocked += [run for run in following.order if run.name in stuck or run in following.blocked]
            refused |= summary.refused
            if summary.stopped:
                break
            following = stages.next()
            if following is not None:
                for line in stages.news():
                    display.say(line)
                display.say(f"{plan.sweep}: {following.describe()}")
                display.add(following.order)
    if summary.stopped:
        click.echo(f"stopped by {summary.stopped}; `lab submit {sweep}` goes on with what is missing", err=True)
        sys.exit(130 if summary.stopped == "SIGINT" else 1)
    for name in failed:
        click.echo(f"failed: {name}: see {root / name / 'log.txt'}", err=True)
    for name, reason in refused.items():
        click.echo(f"refused: {name}: {reason}", err=True)
    _say_blocked(blocked)
    sys.exit(_code(stages, bool(failed or blocked or refused)))


def _apart(overrides: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Overrides of the experiment, and those of the launcher."""
    if not any("launcher" in text for text in overrides):
        return overrides, ()  # without loading what knows launchers
    from lab.dispatch.launchers.slurm.send.settings import split

    return split(overrides)


def _refuse_local(max_parallel: int | None, threads: int | None) -> None:
    from lab.refusals import RequestError

    if max_parallel is not None:
        raise RequestError("--max-parallel is for this machine; on SLURM: launcher.array_parallelism=…, side_by_side=…")
    if threads is not None:
        raise RequestError("--threads is for this machine; on SLURM: launcher.cpus_per_task=…")


def _refuse_slurm(launcher: str | None, show_sbatch: bool, overrides: tuple[str, ...]) -> None:
    from lab.refusals import RequestError

    given = {"--launcher": launcher is not None, "--show-sbatch": show_sbatch}
    for what in (*(name for name, there in given.items() if there), *(f"override '{text}'" for text in overrides)):
        raise RequestError(f"{what} goes with --on slurm")


def _say_blocked(runs: Sequence[RunFolder]) -> None:
    for run in runs:
        click.echo(f"blocked: {run.name}: {run.state.reason}", err=True)


def _code(stages: Stages, failed: bool) -> int:
    """The exit code, after saying which arms report nothing, and why."""
    for found in stages.unpicked:
        click.echo(f"{found.arm}: {found.describe()}", err=True)
    return int(failed or any(found.stuck for found in stages.unpicked))


def _plan(sweep: str, overrides: tuple[str, ...], root: Path) -> Plan:
    from lab.planning.plan.build import plan_sweep
    from lab.planning.plan.plan_file import load_plan
    from lab.refusals import RequestError

    if not sweep.endswith(".json") and not Path(sweep).is_file():
        return plan_sweep(sweep, overrides, root=root)
    if overrides:
        raise RequestError(f"override '{overrides[0]}': {sweep} is a frozen plan; plan the sweep anew with it")
    return load_plan(Path(sweep))

"""`lab plan SWEEP`: shows what would run, what it costs and whether the arms can be compared. Creates no runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import json_option, launcher_option, max_parallel_option, on_option, root_option, threads_option

if TYPE_CHECKING:
    from lab.planning.forecast.budget import Budget
    from lab.planning.forecast.history import FinishedRun, Hardware
    from lab.planning.plan.model import Plan
    from lab.planning.requirements.placement import Placement
    from lab.planning.show.preview import PlanPreview
    from lab.records import Progress, RunFolder


@click.command("plan")
@click.argument("sweep", shell_complete=completion.sweeps)
@click.argument("overrides", nargs=-1, shell_complete=completion.overrides)
@click.option("--budget", metavar="AMOUNT", help="Show what fits into 200gpuh, 16cpuh, 2h, 90m or 1e18flops.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Write the frozen plan for `lab submit`.")
@on_option("Check what this launcher needs: local, slurm, or the launcher of an installed package.")
@launcher_option
@max_parallel_option
@threads_option
@click.option("--flops", is_flag=True, help="Also show FLOPs per token by other conventions: 6N, PaLM, full attention.")
@click.option("--all", "everything", is_flag=True, help="Show all arms, however many there are.")
@root_option
@json_option
def command(
    sweep: str,
    overrides: tuple[str, ...],
    budget: str | None,
    save: Path | None,
    where: str | None,
    settings: str | None,
    max_parallel: int | None,
    threads: int | None,
    flops: bool,
    everything: bool,
    root: Path,
    as_json: bool,
) -> None:
    """Show what SWEEP would run, what it costs, and whether its arms can be compared.

    OVERRIDES apply to every arm; launcher.KEY=VALUE sets an option of the launcher. Nothing is created except the file
    of --save. Times are those on this machine.
    """
    from lab.composition import memo
    from lab.dispatch.control.choose import choose
    from lab.dispatch.launchers.options import split
    from lab.planning.forecast.budget import Budget
    from lab.planning.plan.build import plan_sweep
    from lab.planning.requirements.machine import check_placement
    from lab.planning.requirements.placement import Placement

    overrides, launcher_overrides = split(overrides)
    flags = {"--launcher": settings, "--max-parallel": max_parallel, "--threads": threads}
    chosen = choose(where or "local", launcher_overrides, flags)
    placement = Placement() if where is None else chosen.placement
    amount = Budget.parse(budget) if budget is not None else None
    with memo.scope():  # so that the records of runs are read once
        plan = plan_sweep(sweep, overrides, root=root)
        check_placement(plan, placement)
        preview = _preview(plan, root, amount, max_parallel, threads, placement)
    if save is not None:
        from lab.planning.plan.plan_file import write_plan

        write_plan(plan, save)
    if as_json:
        from lab.planning.show.flop_conventions import flops_by_convention

        conventions = {"flops_per_token_counted": flops_by_convention(plan)} if flops else {}
        click.echo(json.dumps(preview.as_dict() | conventions, indent=1))
        return
    from lab.planning.show.print_plan import print_plan
    from lab.terminal import wide_console

    print_plan(preview, wide_console(), everything=everything)
    if flops:
        from lab.planning.show.flop_conventions import print_flops

        print_flops(plan, wide_console(), everything=everything)
    if save is not None:
        click.echo(f"saved: `lab submit {save}` runs exactly this plan")


def _preview(
    plan: Plan,
    root: Path,
    budget: Budget | None,
    max_parallel: int | None,
    threads: int | None,
    placement: Placement,
) -> PlanPreview:
    """The plan, with the status, time and detectable differences of its runs under this root, on this machine."""
    from lab.dispatch.launchers.local.machine import available_gpus, divide_machine
    from lab.dispatch.status.status import live_state
    from lab.planning.forecast.budget import fit_budget
    from lab.planning.forecast.detectable import detectable
    from lab.planning.forecast.estimate import Speeds, estimates
    from lab.planning.forecast.history import finished_runs
    from lab.planning.forecast.remaining import remaining
    from lab.planning.requirements.unchecked import unchecked
    from lab.planning.show.preview import PlanPreview

    past = finished_runs(root)
    gpus = () if plan.runs[0].experiment.train.accelerator == "cpu" else available_gpus()
    pool = divide_machine(len(plan.runs), max_parallel=max_parallel, threads=threads, gpus=gpus)
    here = _hardware(gpu=bool(gpus), threads=pool.threads)
    speeds = Speeds(past, here)
    power = detectable(plan, past)
    affordable = None
    if budget is not None:
        device = here if budget.unit != "gpuh" or here.device != "cpu" else _elsewhere(past) or here
        affordable = fit_budget(
            plan,
            budget,
            Speeds(past, device),
            power,
            parallel=pool.workers,
            threads=pool.threads,
            gpu=device.device != "cpu",
        )
    runs = _runs(plan.sweep, root)
    states = {run.identity: live_state(run).status for run in runs}
    whole = estimates(plan.runs, speeds)
    return PlanPreview(
        plan,
        states,
        whole,
        power,
        pool.workers,
        affordable,
        _edited(plan, runs),
        other_text=_on_other_text(plan, runs),
        unchecked=tuple(unchecked(plan, placement)),
        left={
            run.identity: remaining(whole[run.identity], progress, is_running=states[run.identity] == "running")
            for run in runs
            if run.identity in whole and (progress := _progress(run, states[run.identity])) is not None
        },
    )


def _progress(run: RunFolder, status: str) -> Progress | None:
    """How far a run is: one that has stopped goes on from its newest checkpoint. None if it begins anew."""
    from dataclasses import replace

    from lab.training.checkpoints.verified import list_checkpoints, step_of

    progress = run.state.progress
    if progress is None or status == "running":
        return progress
    checkpoints = list_checkpoints(run.path)
    return replace(progress, step=step_of(checkpoints[0])) if checkpoints else None


def _hardware(*, gpu: bool, threads: int) -> Hardware:
    """This machine, in the terms of a run's provenance."""
    from lab.dispatch.control.provenance import of_process
    from lab.planning.forecast.history import Hardware
    from lab.training.environment import device_of, facts

    facts_here = of_process()
    device = facts(device_of("auto" if gpu else "cpu"))["device"]
    return Hardware(device, facts_here["cpu"], threads, facts_here["torch"])


def _elsewhere(past: list[FinishedRun]) -> Hardware | None:
    """The GPU on which most past runs were measured: the machine that a budget of GPU hours is about."""
    from collections import Counter

    gpus = Counter(run.hardware for run in past if run.hardware.device not in ("", "cpu"))
    return gpus.most_common(1)[0][0] if gpus else None


def _runs(sweep: str, root: Path) -> list[RunFolder]:
    """The sweep's runs that have a folder."""
    from lab.records import find_broken, find_runs

    broken = {path for path, _ in find_broken(root, sweep)}
    return [run for run in find_runs(root, sweep) if run.path not in broken]


def _on_other_text(plan: Plan, runs: list[RunFolder]) -> tuple[str, ...]:
    """The names of runs that would be runs of the plan if they had been trained on the text of now."""
    from lab.composition.frozen.identity import identity, identity_with_text

    records = {run.name: run.record for run in runs}
    existing = {record.identity for record in records.values()}
    planned = {identity(run.experiment): run.text for run in plan.runs if run.identity not in existing}
    outdated = {
        identity_with_text(configuration, trained)
        for trained in {record.text for record in records.values() if record.text is not None}
        for configuration, text in planned.items()
        if text != trained
    }
    return tuple(name for name, record in records.items() if record.identity in outdated)


def _edited(plan: Plan, runs: list[RunFolder]) -> dict[str, tuple[str, ...]]:
    """The names of finished runs whose components have been edited since → what has been edited."""
    planned = {run.identity: run.extensions for run in plan.runs if run.extensions}
    edited = {}
    for run in runs if planned else ():
        record = run.record
        if record.identity in planned and run.state.ended:
            edited[run.name] = record.extensions.edited(planned[record.identity])
    return {name: code for name, code in edited.items() if code}

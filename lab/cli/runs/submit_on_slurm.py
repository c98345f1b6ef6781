"""`lab submit SWEEP --on slurm`: send what is missing and return; or show what would be sent, or wait for it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lab.dispatch.launchers.slurm.send.settings import Settings
    from lab.planning.plan.model import Plan, PlannedRun
    from lab.records import RunFolder


def submit(plan: Plan, root: Path, settings: Settings, *, reselect: bool, wait: bool, **options: bool) -> None:
    """Make what is missing of a plan, send it, and end with the exit code.

    Args:
        reselect, options: for `lab.dispatch.control.stages.Stages`.
        wait: until nothing of it is going on any more.
    Raises:
        RequestError: the cluster would not take it; nothing has been made then.
    """
    from lab.dispatch.control.stages import Stages
    from lab.dispatch.launchers.slurm.send import journal, next_stage, submission

    missing = submission.to_send(_first(plan), root, retry_failed=options.get("retry_failed", False))
    if missing:
        submission.check(settings, len(missing), root)
    stages = Stages(plan, root, reselect=reselect, **options)
    ready = stages.next()
    assert ready is not None
    click.echo(f"{plan.sweep}: {ready.describe()}")
    if warning := ready.warning():
        click.echo(f"note: {warning}", err=True)
    for line in stages.news():
        click.echo(line)
    group = journal.new_group()
    sent = submission.send(ready.to_run, root, plan.sweep, settings, group=group) if ready.to_run else submission.Sent()
    if ready.to_run:
        click.echo(f"SLURM: {sent.describe()}")
    if any(found.waiting and not found.stuck for found in stages.unpicked):
        after = next_stage.send_next(
            plan, root, settings, group=group, anew=bool(sent.records), options={"reselect": False, **options}
        )
        if after is not None:
            click.echo(f"SLURM: job {after.job} sends the runs of what each arm picks, once the tuning runs have ended")
    for run in ready.blocked:
        click.echo(f"blocked: {run.name}: {run.state.reason}", err=True)
    for found in stages.unpicked:
        if found.stuck or found.hopeless:
            click.echo(f"{found.arm}: {found.describe()}", err=True)
    if wait:
        sys.exit(_wait(plan.sweep, root))
    if sent.records:
        click.echo(f"`lab status {plan.sweep}` tells how they stand; `lab submit` again sends only what is missing")
    sys.exit(int(bool(ready.failed or ready.blocked) and not options.get("retry_failed", False)))


def show(plan: Plan, root: Path, settings: Settings, *, retry_failed: bool) -> None:
    """Print the batch scripts that would be sent. Makes nothing."""
    from lab.dispatch.launchers.slurm.client import commands
    from lab.dispatch.launchers.slurm.send import submission

    missing = submission.to_send(_first(plan), root, retry_failed=retry_failed)
    config = commands.configuration()
    if config.value is None:
        click.echo(f"note: no limits of a cluster are known here: {config.reason}", err=True)
    elif missing:
        submission.check(settings, len(missing), root)
    per_array = int((config.value or {}).get("MaxArraySize", 1001))
    if not missing:
        click.echo(f"{plan.sweep}: nothing to send")
        return
    needed = {run.folder_name: [need.run for need in run.needs] for run in missing}
    click.echo(submission.preview(needed, root, plan.sweep, settings, per_array), nl=False)
    if plan.tune_metric is not None:
        click.echo("# and, once the tuning runs have ended, the runs of what each arm picks")


def _first(plan: Plan) -> list[PlannedRun]:
    """The runs of its first stage."""
    return [run for run in plan.runs if plan.tune_metric is None or run.role == "tune"]


def _wait(sweep: str, root: Path) -> int:
    """Show the runs until none is going on or waiting to, and no job is going to make more. Returns the exit code."""
    from lab.dispatch.launchers.slurm.client import commands
    from lab.dispatch.launchers.slurm.send import journal
    from lab.dispatch.status.cluster_view import Watch
    from lab.dispatch.status.display import SweepDisplay
    from lab.records import survey

    def standing() -> list[RunFolder]:
        return [seen.run for seen in survey(root, sweep).runs]

    with SweepDisplay(standing(), join=Watch(root).join) as display:
        while True:
            display.wait()
            rows = display.rows()
            if any(row.open for row in rows):  # Ctrl-C
                break
            later = [record.name for record in journal.records(root, sweep) if record.kind == "next"]
            makes_more = any(row.live for row in commands.squeue(names=later).value or ()) if later else False
            display.add(now := standing())
            if not makes_more and len(now) == len(rows):
                break
            time.sleep(1.0)
    if any(row.open for row in rows):
        click.echo(f"they go on; `lab status {sweep}` tells how they stand", err=True)
        return 130
    return int(any(row.status not in ("finished", "diverged") for row in rows))

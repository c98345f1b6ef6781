"""`lab train EXPERIMENT [overrides]`: trains one run on this machine. It takes Hydra's flags too."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import root_option

if TYPE_CHECKING:
    from lab.records import RunFolder


@click.command("train", context_settings={"ignore_unknown_options": False})
@click.argument(
    "arguments",
    nargs=-1,
    metavar="[EXPERIMENT] [OVERRIDES]...",
    shell_complete=completion.experiment_or_override,
)
@click.option("--config-name", "-cn", shell_complete=completion.experiments, help="Hydra's way to name the experiment.")
@click.option(
    "--config-dir",
    "-cd",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Search this folder first.",
)
@click.option("--cfg", "-c", type=click.Choice(["job"]), help="Print the resolved configuration instead of training.")
@click.option("--package", "-p", help="With --cfg: print only this part, such as model.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads to train with.  [default: all cores]")
@click.option("--any-code", is_flag=True, help="Continue a run also if it was made with other code.")
@root_option
def command(
    arguments: tuple[str, ...],
    config_name: str | None,
    config_dir: Path | None,
    cfg: str | None,
    package: str | None,
    threads: int | None,
    any_code: bool,
    root: Path,
) -> None:
    """Train EXPERIMENT with OVERRIDES in Hydra's syntax, or continue an interrupted run of it."""
    from lab.composition import search_path
    from lab.planning.plan.build import plan_train
    from lab.refusals import RequestError

    experiment, overrides = _split(arguments, config_name)
    if package is not None and cfg is None:
        raise RequestError("--package needs --cfg job")
    with search_path.searched_first(config_dir):
        planned = plan_train(experiment, overrides, root=root)
    if cfg is not None:
        from lab.composition.frozen.freeze import part_as_yaml

        click.echo(part_as_yaml(planned.runs[0].experiment, package).rstrip("\n"))
        return

    from lab.dispatch.control.preparation.prepare import prepare
    from lab.dispatch.launchers.base import Request
    from lab.dispatch.launchers.local.launcher import LocalLauncher, LocalOptions
    from lab.dispatch.status.display import SweepDisplay
    from lab.planning.requirements.machine import check_placement
    from lab.terminal import plain_console

    launcher = LocalLauncher(LocalOptions(max_parallel=1, threads=threads))
    check_placement(planned, launcher.placement)
    submission = prepare(planned.runs, root, retry_failed=True, any_code=any_code)
    run = submission.order[0]
    for warning in submission.warnings():
        click.echo(f"note: {warning}", err=True)
    if not submission.to_run and not submission.elsewhere:
        click.echo(f"{submission.describe()}: {run.path}")
    else:
        with SweepDisplay([run], console=plain_console()):
            launcher.send(Request(root, (run,), retry_failed=True))
    sys.exit(_conclude(run))


def _split(arguments: tuple[str, ...], config_name: str | None) -> tuple[str, tuple[str, ...]]:
    from lab.refusals import RequestError

    if config_name is not None:
        return config_name.removesuffix(".yaml"), arguments
    if not arguments or "=" in arguments[0]:
        raise RequestError("name an experiment first, such as `lab train gemma2_tiny`; `lab list experiments` has all")
    return arguments[0], arguments[1:]


def _conclude(run: RunFolder) -> int:
    """Print how the run ended. Returns the exit code."""
    state, summary = run.state, run.summary
    if summary is None:
        click.echo(f"{state.status}: {state.reason or 'see log.txt'}: {run.path / 'log.txt'}", err=True)
        return 130 if state.status == "preempted" else 1
    metrics, costs = summary.metrics, summary.costs
    losses = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("val/loss", "unigram/loss") if name in metrics)
    speed = f"{costs['tokens_per_second']:,.0f} tokens/s"
    if "mfu" in costs:
        speed += f" (MFU {costs['mfu']:.1%})"
    click.echo(f"{summary.status}: {losses} nats/token · {speed} · {run.path}")
    return 0 if summary.status == "finished" else 1

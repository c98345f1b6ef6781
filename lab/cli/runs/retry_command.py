"""`lab retry SWEEP|RUN…`: try runs again, by what became of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import root_option

if TYPE_CHECKING:
    from lab.dispatch.control.retry import Amended, Verdict
    from lab.records import RunFolder


@click.command("retry")
@click.argument("arguments", metavar="SWEEP|RUN... [KEY=VALUE]...", nargs=-1, required=True,
                shell_complete=completion.sweeps_and_runs)  # fmt: skip
@click.option("--failed", is_flag=True, help="Also what failed by a bug.")
@click.option("--on", "where", type=click.Choice(["local", "slurm"]), help="Where to run; by default where it was.")
@click.option("--launcher", default="slurm", show_default=True, metavar="NAME", help="Settings in launchers/NAME.yaml.")
@click.option("--max-parallel", type=click.IntRange(min=1), help="Runs at once here; by default one a GPU, or a core.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of each run here; by default an equal share.")
@click.option("--any-code", is_flag=True, help="Also what was made with other code than this.")
@click.option("--dry-run", is_flag=True, help="Only say what would be tried again, and what not, and why.")
@root_option
def command(
    arguments: tuple[str, ...],
    failed: bool,
    where: str | None,
    launcher: str,
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
    from lab.dispatch.control import retry
    from lab.dispatch.status import status
    from lab.dispatch.status.cluster_view import joined
    from lab.records import resolve_all
    from lab.refusals import RequestError

    names, own, of_launcher = _split(arguments)
    if not names:
        raise RequestError("name a sweep, or runs, to be tried again")
    chosen = resolve_all(root, names)
    rows, notes = joined([status.row(run) for run in chosen], root)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if where is None:
        where = "slurm" if of_launcher or any(row.job is not None for row in rows) else "local"
    if of_launcher and where == "local":
        raise RequestError(f"'{of_launcher[0]}': a setting of a cluster's jobs; use --on slurm")
    if where == "slurm" and (max_parallel is not None or threads is not None):
        raise RequestError("--max-parallel, --threads: of this machine; use launcher.side_by_side, cpus_per_task")
    local = ("max_parallel",) if max_parallel is not None else ()
    changes = retry.Changes(own, (*(text.removeprefix("launcher.") for text in of_launcher), *local))
    verdicts = retry.decide(
        dict(zip(chosen, rows, strict=True)),
        changes=changes,
        named=[run for run, named in chosen.items() if named],
        failed=failed,
        any_code=any_code,
    )
    verdicts, amended = retry.amended(verdicts, changes)
    _say(verdicts)
    going = [verdict.run for verdict in verdicts if verdict.go]
    left = any(not verdict.go and verdict.row.status in ("failed", "lost", "blocked") for verdict in verdicts)
    if dry_run or not going:
        click.echo(f"{_runs(len(going))} {'would be' if dry_run else 'to be'} tried again")
        sys.exit(int(left))
    if where == "slurm":
        code = _on_slurm(going, amended, root, launcher, of_launcher, any_code)
    else:
        code = _here(going, amended, root, max_parallel, threads, any_code)
    sys.exit(code or int(left))


def _split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...], tuple[str, ...]]:
    """Sweeps and runs, settings of the run, settings of the launcher. Names of runs may hold `=`, behind a slash."""
    settings = [text for text in arguments if "=" in text and "/" not in text.partition("=")[0]]
    names = [text for text in arguments if text not in settings]
    of_launcher = tuple(text for text in settings if text.startswith("launcher."))
    return names, tuple(text for text in settings if text not in of_launcher), of_launcher


def _say(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        if verdict.go or verdict.noted:
            click.echo(f"{verdict.run.name}: {'again: ' if verdict.go else 'left as it is: '}{verdict.said}")


def _release(going: Sequence[RunFolder], amended: dict[RunFolder, Amended], any_code: bool) -> list[RunFolder]:
    from lab.dispatch.control import provenance, retry

    free = []
    for run in going:
        reason = retry.release(run, amended.get(run))
        if reason is not None:
            click.echo(f"{run.name}: left as it is: {reason}")
            continue
        if any_code:
            provenance.accept_code(run)
        free.append(run)
    return free


def _here(
    going: Sequence[RunFolder],
    amended: dict[RunFolder, Amended],
    root: Path,
    max_parallel: int | None,
    threads: int | None,
    any_code: bool,
) -> int:
    from lab.dispatch.launchers.local.local import run_local
    from lab.dispatch.status.display import SweepDisplay

    free = _release(going, amended, any_code)
    click.echo(f"{_runs(len(free))} to be tried again on this machine")
    with SweepDisplay(free):
        summary = run_local(free, max_parallel=max_parallel, threads=threads)
    if summary.stopped:
        click.echo(f"stopped by {summary.stopped}; the same command goes on with what is missing", err=True)
        return 130 if summary.stopped == "SIGINT" else 1
    failed = [name for name, state in summary.ran.items() if state in ("failed", "lost", "blocked")]
    for name in failed:
        click.echo(f"failed: {name}: see {root / name / 'log.txt'}", err=True)
    for name, reason in summary.refused.items():
        click.echo(f"refused: {name}: {reason}", err=True)
    return int(bool(failed or summary.refused))


def _on_slurm(
    going: Sequence[RunFolder],
    amended: dict[RunFolder, Amended],
    root: Path,
    launcher: str,
    overrides: Sequence[str],
    any_code: bool,
) -> int:
    from lab.dispatch.launchers.slurm.send import settings, submission

    chosen = settings.load(launcher, overrides)
    submission.check(chosen, len(going), root)  # before anything is changed
    by_sweep: dict[str, list[RunFolder]] = {}
    for run in _release(going, amended, any_code):
        by_sweep.setdefault(run.path.parts[-3], []).append(run)
    for sweep, runs in by_sweep.items():
        click.echo(f"{sweep}: {submission.send(runs, root, sweep, chosen).describe()}")
    return 0


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"

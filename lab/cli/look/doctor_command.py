"""`lab doctor`: this machine and its cluster."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import click

from lab.cli.options import json_option, root_option


@click.command("doctor")
@click.argument("overrides", metavar="[launcher.KEY=VALUE]...", nargs=-1)
@click.option("--on", "where", type=click.Choice(["local", "slurm"]),
              help="Where runs are to go; by default both are looked at, and Slurm may be missing.")  # fmt: skip
@click.option("--launcher", default="slurm", show_default=True, metavar="NAME", help="Settings in launchers/NAME.yaml.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="How many are to be sent.")
@root_option
@json_option
def command(overrides: tuple[str, ...], where: str | None, launcher: str, jobs: int, root: Path, as_json: bool) -> None:
    """What this machine and its cluster offer, and what is in the way of running there, each problem with its fix.

    Ends with 0 where nothing is in the way of what was asked for, and like `lab submit` with 2 where something is.
    """
    from lab.dispatch.status import doctor
    from lab.refusals import RequestError

    foreign = [text for text in overrides if not text.startswith("launcher.")]
    if foreign:
        raise RequestError(f"'{foreign[0]}': expected a setting of the launcher, such as launcher.partition=gpu")
    if overrides and where == "local":
        raise RequestError(f"'{overrides[0]}': a setting of a cluster's jobs; use --on slurm")
    found = doctor.machine(root)
    asked = where == "slurm" or bool(overrides) or launcher != "slurm" or jobs > 1
    if asked or (where is None and shutil.which("sbatch") is not None):
        from lab.dispatch.launchers.slurm.check import doctor as slurm

        cluster = doctor.looked([("slurm", lambda: list(slurm.examine(root, launcher, overrides, jobs)))])
        found += cluster if asked else [each.aside() for each in cluster]
    elif where is None:
        found.append(doctor.Finding("slurm", "none here; runs go on this machine (--on local)"))
    if as_json:
        problems = sum(each.problem for each in found)
        content = {"version": 1, "problems": problems, "findings": [each.as_dict() for each in found]}
        click.echo(json.dumps(content, indent=1))
    else:
        _print(found)
    sys.exit(2 if any(each.problem for each in found) else 0)


def _print(found: list) -> None:  # type: ignore[type-arg]
    from rich.table import Table
    from rich.text import Text

    from lab.cli.console import console

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    area = None
    for each in found:
        said = Text(each.said)
        if each.fix is not None:
            said.append(f"\n→ {each.fix}", "yellow")
        mark = Text("problem", "red") if each.problem else Text("ok", "green")
        table.add_row(each.area if each.area != area else "", mark, said)
        area = each.area
    console().print(table)
    problems = sum(each.problem for each in found)
    click.echo("nothing is in the way" if not problems else f"{problems} problem{'s' if problems > 1 else ''}")

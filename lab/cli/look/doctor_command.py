"""`lab doctor`: checks this machine and the launchers that can be used from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli.options import json_option, launcher_option, on_option, root_option

if TYPE_CHECKING:
    from lab.refusals import Finding


_MARKS = {"info": ("ok", "green"), "warning": ("warning", "yellow"), "problem": ("problem", "red")}
"""Severity → the word in the table, and its color."""


@click.command("doctor")
@click.argument("overrides", metavar="[launcher.KEY=VALUE]...", nargs=-1)
@on_option("Check only this launcher.  [default: all; a cluster may be missing]")
@launcher_option
@click.option("--jobs", type=click.IntRange(min=1), help="Number of jobs to send.  [default: 1]")
@root_option
@json_option
def command(
    overrides: tuple[str, ...], where: str | None, settings: str | None, jobs: int | None, root: Path, as_json: bool
) -> None:
    """Check this machine and its launchers, and print each problem with its fix.

    The exit code is 0 if there is no problem and 2 if there is one, as for `lab submit`.
    """
    from lab.dispatch.control.doctor import examine
    from lab.refusals import RequestError
    from lab.units import plural

    others = [text for text in overrides if not text.startswith("launcher.")]
    if others:
        fix = "write launcher.KEY=VALUE, such as launcher.partition=gpu"
        raise RequestError("not an option of a launcher", kind="usage", override=others[0], fix=fix)
    findings = examine(root, where, overrides, {"--launcher": settings, "--jobs": jobs})
    problems = sum(finding.severity == "problem" for finding in findings)
    if as_json:
        content = {"version": 1, "problems": problems, "findings": [_as_dict(finding) for finding in findings]}
        click.echo(json.dumps(content, indent=1))
    else:
        _print(findings)
        click.echo(plural(problems, "problem") if problems else "no problems")
    sys.exit(2 if problems else 0)


def _as_dict(finding: Finding) -> dict[str, object]:
    return {
        "area": finding.area,
        "said": finding.message,
        "problem": finding.severity == "problem",
        "fix": finding.fix,
        "facts": finding.facts or {},
    }


def _print(findings: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from lab.terminal import wide_console

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    area = None
    for finding in findings:
        message = Text(finding.message)
        if finding.fix is not None:
            message.append(f"\n→ {finding.fix}", "yellow")
        table.add_row(finding.area if finding.area != area else "", Text(*_MARKS[finding.severity]), message)
        area = finding.area
    wide_console().print(table)

"""`lab compare SWEEP`: the table of a sweep's arms."""

from __future__ import annotations

from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import json_option, root_option


@click.command("compare")
@click.argument("sweep", shell_complete=completion.submitted)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@root_option
@json_option
def command(sweep: str, root: Path, as_csv: bool, as_json: bool) -> None:
    """Per arm of SWEEP: seeds, means, paired differences from the baseline with their 95% intervals, and costs."""
    from lab.comparison.collect import collect
    from lab.comparison.rows import compare
    from lab.errors import RequestError

    if as_csv and as_json:
        raise RequestError("--csv and --json exclude each other")
    comparison = compare(collect(root, sweep))
    if as_json or as_csv:
        click.echo(comparison.as_json() if as_json else comparison.as_csv().rstrip("\n"))
        return
    from lab.comparison.table import show

    show(comparison)

"""`lab compare SWEEP`: the table of a sweep's arms."""

from __future__ import annotations

from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import json_option, root_option


@click.command("compare")
@click.argument("sweep", shell_complete=completion.submitted)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--latex", "as_latex", is_flag=True, help="Print a LaTeX table, for the package booktabs.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown table.")
@root_option
@json_option
def command(sweep: str, root: Path, as_csv: bool, as_latex: bool, as_markdown: bool, as_json: bool) -> None:
    """Per arm of SWEEP: seeds, means, paired differences from the baseline with their 95% intervals, and costs."""
    from lab.comparison.compare import compare
    from lab.comparison.read.collect import collect
    from lab.refusals import RequestError

    forms = {"--csv": as_csv, "--latex": as_latex, "--markdown": as_markdown, "--json": as_json}
    chosen = [form for form, asked in forms.items() if asked]
    if len(chosen) > 1:
        raise RequestError(f"{' and '.join(chosen)} exclude each other")
    comparison = compare(collect(root, sweep))
    if as_json or as_csv:
        click.echo(comparison.as_json() if as_json else comparison.as_csv().rstrip("\n"))
    elif chosen:
        from lab.comparison.tables import documents

        said = documents.as_latex(comparison) if as_latex else documents.as_markdown(comparison)
        click.echo(said.rstrip("\n"))
    else:
        from lab.comparison.tables.table import show

        show(comparison)

"""`lab compare SWEEP`: compares the arms of a sweep in a table."""

from __future__ import annotations

from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import json_option, root_option


@click.command("compare")
@click.argument("sweep", shell_complete=completion.submitted)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--latex", "as_latex", is_flag=True, help="Print a LaTeX table, which needs the package booktabs.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown table.")
@root_option
@json_option
def command(sweep: str, root: Path, as_csv: bool, as_latex: bool, as_markdown: bool, as_json: bool) -> None:
    """Compare the arms of SWEEP: means, paired differences from the baseline with 95% intervals, and costs."""
    from lab.comparison.compare import compare
    from lab.comparison.read.collect import collect
    from lab.refusals import RequestError

    options = {"--csv": as_csv, "--latex": as_latex, "--markdown": as_markdown, "--json": as_json}
    chosen = [option for option, is_given in options.items() if is_given]
    if len(chosen) > 1:
        raise RequestError(f"{' and '.join(chosen)} exclude each other", kind="conflict")
    comparison = compare(collect(root, sweep))
    if not chosen:
        from lab.comparison.tables.table import show

        show(comparison)
        return
    if as_json or as_csv:
        from lab.comparison.tables import export

        text = export.as_json(comparison) if as_json else export.as_csv(comparison)
    else:
        from lab.comparison.tables import documents

        text = documents.as_latex(comparison) if as_latex else documents.as_markdown(comparison)
    click.echo(text.rstrip("\n"))

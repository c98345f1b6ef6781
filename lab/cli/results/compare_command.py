"""`lab compare SWEEP…`: compares the arms of sweeps in tables."""

from __future__ import annotations

from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import json_option, root_option


@click.command("compare")
@click.argument("sweeps", nargs=-1, required=True, metavar="SWEEP...", shell_complete=completion.submitted)
@click.option("--metric", "metrics", multiple=True, help="Compare this metric instead of the sweep's own. Repeatable.")
@click.option(
    "--columns",
    metavar="NAME,...",
    help="Columns of the table: n, mean, sd, difference, p, and costs such as parameters or mfu. With --csv, its own.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--latex", "as_latex", is_flag=True, help="Print a LaTeX table, which needs the package booktabs.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown table.")
@root_option
@json_option
def command(
    sweeps: tuple[str, ...],
    metrics: tuple[str, ...],
    columns: str | None,
    root: Path,
    as_csv: bool,
    as_latex: bool,
    as_markdown: bool,
    as_json: bool,
) -> None:
    """Compare the arms of each SWEEP: means, paired differences from the baseline with 95% intervals, and costs.

    Verdicts are about the arms of one sweep: several sweeps are printed one after another.
    """
    from lab.comparison.choose_metrics import choose_metrics
    from lab.comparison.compare import compare
    from lab.comparison.read.collect import collect
    from lab.comparison.tables import documents, export, table
    from lab.refusals import RequestError

    options = {"--csv": as_csv, "--latex": as_latex, "--markdown": as_markdown, "--json": as_json}
    formats = [option for option, is_given in options.items() if is_given]
    if len(formats) > 1:
        raise RequestError(f"{' and '.join(formats)} exclude each other", kind="conflict")
    chosen = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    if chosen is not None and as_json:
        problem = "has no effect with --json, which has everything"
        raise RequestError(problem, kind="conflict", key="--columns", given=columns)
    if chosen is not None and not as_csv:
        export.check_columns(chosen, (*table.METRIC_COLUMNS, *table.ARM_COLUMNS))
    results = [collect(root, sweep) for sweep in dict.fromkeys(sweeps)]
    comparisons = [compare(choose_metrics(sweep, metrics)) for sweep in results]
    shown = table.DEFAULT_COLUMNS if chosen is None else chosen
    if as_json:
        click.echo(export.as_json(*comparisons))
    elif as_csv:
        click.echo(export.as_csv(*comparisons, chosen=chosen).rstrip("\n"))
    elif as_latex or as_markdown:
        document = documents.as_latex if as_latex else documents.as_markdown
        click.echo("\n".join(document(comparison, shown) for comparison in comparisons).rstrip("\n"))
    else:
        for number, comparison in enumerate(comparisons):
            if number:
                click.echo()
            table.show(comparison, chosen=shown)

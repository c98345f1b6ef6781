"""`lab eval RUN EVALUATOR`: measure a trained or imported model."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import accelerator_option, json_option, root_option


@click.command("eval")
@click.argument("run", shell_complete=completion.runs)
@click.argument("evaluator", shell_complete=completion.evaluators)
@click.argument("overrides", nargs=-1, metavar="[OPTION=VALUE]...", shell_complete=completion.data_overrides)
@click.option("--as", "save_as", help="Name of the result below evaluations/; by default the evaluator's.")
@accelerator_option
@root_option
@json_option
def command(
    run: str,
    evaluator: str,
    overrides: tuple[str, ...],
    save_as: str | None,
    accelerator: str,
    root: Path,
    as_json: bool,
) -> None:
    """Measure RUN with EVALUATOR, and keep the result in the run's evaluations/.

    Options of the evaluator are given as context=64, another corpus as data/corpus=files 'data.corpus.paths=[x.txt]'.
    `lab list evaluators` has all.
    """
    from lab.evaluation.evaluate import evaluate, request
    from lab.runs import resolve

    asked = request(evaluator, overrides)
    found = resolve(root, run)
    result = evaluate(found, asked, accelerator=accelerator, save_as=save_as)  # type: ignore[arg-type]
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    from rich import box
    from rich.table import Table

    from lab.cli.console import console
    from lab.units import measure

    steps = f" of {result['steps']:,}" if result["steps"] else ""
    click.echo(f"{found.name}, step {result['step']:,}{steps}")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    table.add_column(evaluator, justify="right")
    for metric, value in result["metrics"].items():
        table.add_row(metric, f"{value:,}" if isinstance(value, int) else measure(value))
    console().print(table)

"""`lab import DIR --name NAME`: makes a run of a published model."""

from __future__ import annotations

from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import root_option


@click.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("overrides", nargs=-1, metavar="[OVERRIDES]...", shell_complete=completion.data_overrides)
@click.option("--name", required=True, help="Name of the run, which is imported/NAME.")
@click.option("--without-dropout", is_flag=True, help="Import a model that was trained with dropout, without it.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="KEY",
    help="Leave out a key of config.json, or a tensor, that the lab doesn't know. Can be repeated.",
)
@root_option
def command(
    folder: Path, overrides: tuple[str, ...], name: str, without_dropout: bool, ignore: tuple[str, ...], root: Path
) -> None:
    """Make a run of the Hugging Face model in DIR, for `lab eval` and `lab generate`.

    The run's tokenizer adds the special tokens that DIR's tokenizer adds, and a generation ends where that of
    transformers ends.

    OVERRIDES set the default data of its evaluations (data/corpus=files …, train.context=2048), and its tokenizer if
    DIR contains none (data/tokenizer=byte, or data/tokenizer=ids for ids in place of text).
    """
    from lab.evaluation.imported import import_model

    run, is_new = import_model(folder, name, root, overrides, without_dropout=without_dropout, ignore=ignore)
    costs = run.record.costs
    from lab.units import count

    click.echo(f"{'imported' if is_new else 'already imported'}: {count(costs['parameters'])} parameters · {run.path}")

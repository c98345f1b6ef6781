"""`lab eval RUN... EVALUATOR`: measure trained or imported models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import accelerator_option, json_option, root_option

if TYPE_CHECKING:
    from lab.evaluation.evaluate import EvaluationRequest
    from lab.records import EvaluationRecord, RunFolder


@click.command("eval")
@click.argument(
    "arguments",
    nargs=-1,
    required=True,
    metavar="RUN... [EVALUATOR [OPTION=VALUE]...]",
    shell_complete=completion.evaluation,
)
@click.option("--as", "save_as", help="Name of the result below evaluations/; by default the evaluator's.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make, for pictures of all RUNs side by side.")
@accelerator_option
@root_option
@json_option
def command(
    arguments: tuple[str, ...], save_as: str | None, out: Path | None, accelerator: str, root: Path, as_json: bool
) -> None:
    """Measure each RUN with EVALUATOR, and keep the result in the run's evaluations/ and among its metrics.

    A sweep means its finished runs. Options of the evaluator are given as context=64, another corpus as
    data/corpus=files 'data.corpus.paths=[x.txt]'; `lab list evaluators` has all. Without EVALUATOR, what the runs' own
    configuration asks for under `evaluate` and has not been measured yet. For --out all RUNs are drawn side by side.
    """
    from lab.cli.models.evaluation_progress import measured
    from lab.evaluation import pictures
    from lab.evaluation.evaluate import declared
    from lab.refusals import RequestError

    runs, asked = _understood(root, arguments)
    if asked is None and save_as is not None:
        raise RequestError("--as names the result of one evaluator; none was named")
    if out is not None:
        _check_out(out, asked)
    results, found = [], []
    for run in runs:
        wanted = declared(run) if asked is None else {save_as or asked.evaluator.name: asked}
        for name, each in wanted.items():
            made = measured(run, name, each, accelerator)
            results.append(made.record)
            found.append((run.name, made.findings))
            if not as_json:
                _show(run, name, made.record)
    if out is not None and asked is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, image in pictures.shared(asked.evaluator, found).items():
            (out / f"{name}.png").write_bytes(image)
            if not as_json:
                click.echo(f"side by side: {out / name}.png")
    if as_json:
        contents = [record.as_json() for record in results]
        click.echo(json.dumps(contents[0] if len(runs) == 1 and asked is not None else contents, indent=1))
    elif not results:
        click.echo("nothing to do: the runs' configurations ask for no evaluation that they haven't had")


def _check_out(out: Path, asked: EvaluationRequest | None) -> None:
    """Refuse a folder that pictures can't go to, before anything is measured."""
    from lab.refusals import RequestError

    if asked is None:
        raise RequestError("--out is for the pictures of one evaluator; none was named")
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise RequestError(f"--out: {out} is there and holds something; name a folder that is new or empty")


def _understood(root: Path, arguments: Sequence[str]) -> tuple[list[RunFolder], EvaluationRequest | None]:
    """The runs, and the evaluator with what is said of it; None where none is named."""
    from components.registry import names, nearest
    from lab.composition import extensions
    from lab.evaluation.evaluate import request
    from lab.records import UnknownRun, resolve_all
    from lab.refusals import RequestError

    extensions.load()
    known = names("evaluator")
    at = next((place for place, text in enumerate(arguments) if place > 0 and text in known), None)
    asked = None if at is None else request(arguments[at], arguments[at + 1 :])
    named = arguments if at is None else arguments[:at]
    try:
        chosen = resolve_all(root, named)
    except UnknownRun:
        if at is None and len(named) > 1:  # a misspelt evaluator reads like a run
            plain = [text for text in named if "=" not in text]
            if nearest(plain[-1], known) is None:
                resolve_all(root, plain[:-1])
            request(plain[-1], ())
        raise
    runs = [run for run, itself in chosen.items() if itself or run.state.status == "finished"]
    if not runs:
        raise RequestError(f"no run of {', '.join(named)} has finished")
    if left := len(chosen) - len(runs):
        click.echo(f"left out: {left} that have not finished", err=True)
    return runs, asked


def _show(run: RunFolder, name: str, record: EvaluationRecord) -> None:
    from rich import box
    from rich.table import Table

    from lab.cli.console import console
    from lab.units import measure

    steps = f" of {record.steps:,}" if record.steps else ""
    click.echo(f"{run.name}, step {record.step:,}{steps}")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    table.add_column(name, justify="right")
    for metric, value in record.metrics.items():
        table.add_row(metric, f"{value:,}" if isinstance(value, int) else measure(value))
    console().print(table)
    for image in record.images:
        click.echo(f"  {run.path / image}")

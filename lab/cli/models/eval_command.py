"""`lab eval RUN... EVALUATOR`: evaluates trained or imported models."""

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
    from lab.training.options import Accelerator


@click.command("eval")
@click.argument(
    "arguments",
    nargs=-1,
    required=True,
    metavar="RUN... [EVALUATOR [OPTION=VALUE]...]",
    shell_complete=completion.evaluation,
)
@click.option("--as", "save_as", help="Name of the result below evaluations/.  [default: EVALUATOR]")
@click.option("--replace", "replaces", is_flag=True, help="Replace a configured evaluation that has other options.")
@click.option("--out", type=click.Path(path_type=Path), help="New folder for pictures that compare all RUNs.")
@accelerator_option
@root_option
@json_option
def command(
    arguments: tuple[str, ...],
    save_as: str | None,
    replaces: bool,
    out: Path | None,
    accelerator: Accelerator,
    root: Path,
    as_json: bool,
) -> None:
    """Evaluate each RUN with EVALUATOR. The result is saved in the run's evaluations/ folder and among its metrics.

    The name of a sweep stands for its finished runs. Set the evaluator's options with OPTION=VALUE, such as
    context=64, and another corpus with data/corpus=files 'data.corpus.paths=[x.txt]'. `lab list evaluators` lists all
    evaluators and options.

    A result of the same name is replaced, unless the run's configuration lists it with other options: then name the
    new one with --as, or replace it with --replace.

    Without EVALUATOR, each run gets the evaluations that its configuration lists under `evaluate` and that it hasn't
    had yet.
    """
    from lab.cli.models.evaluation_progress import evaluate_with_progress
    from lab.evaluation import pictures
    from lab.evaluation.evaluate import check_replacement, pending_evaluations
    from lab.refusals import RequestError

    runs, named_request = _parsed(root, arguments)
    if named_request is None and save_as is not None:
        raise RequestError("--as names the result of one evaluator; none was named")
    if out is not None:
        _check_out(out, named_request)
    if named_request is not None and not replaces:
        for run in runs:  # before any of them is evaluated
            check_replacement(run, save_as or named_request.evaluator.name, named_request)
    records, outputs = [], []
    for run in runs:
        requests = (
            pending_evaluations(run)
            if named_request is None
            else {save_as or named_request.evaluator.name: named_request}
        )
        for name, request in requests.items():
            evaluated = evaluate_with_progress(run, name, request, accelerator, replaces=replaces)
            records.append(evaluated.record)
            outputs.append((run.name, evaluated.output))
            if not as_json:
                _show(run, name, evaluated.record)
    if out is not None and named_request is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, image in pictures.compare(named_request.evaluator, outputs).items():
            (out / f"{name}.png").write_bytes(image)
            if not as_json:
                click.echo(f"side by side: {out / name}.png")
    if as_json:
        contents = [record.as_json() for record in records]
        click.echo(json.dumps(contents[0] if len(runs) == 1 and named_request is not None else contents, indent=1))
    elif not records:
        click.echo("nothing to do: the runs have had all evaluations that their configurations list")


def _check_out(out: Path, request: EvaluationRequest | None) -> None:
    """Refuse a folder for pictures that isn't new or empty, before any evaluation."""
    from lab.refusals import RequestError

    if request is None:
        raise RequestError("--out is for the pictures of one evaluator; none was named")
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise RequestError(f"--out: {out} exists and isn't empty; name a new or an empty folder")


def _parsed(root: Path, arguments: Sequence[str]) -> tuple[list[RunFolder], EvaluationRequest | None]:
    """The runs that the arguments name, and the evaluator with its options; None where no evaluator is named."""
    from components.registry import names, nearest
    from lab.composition import extensions
    from lab.evaluation.evaluate import parse_request
    from lab.records import UnknownRun, resolve_all
    from lab.refusals import RequestError
    from lab.units import plural

    extensions.load()
    evaluators = names("evaluator")
    position = next((index for index, text in enumerate(arguments) if index > 0 and text in evaluators), None)
    named_request = None if position is None else parse_request(arguments[position], arguments[position + 1 :])
    run_names = arguments if position is None else arguments[:position]
    try:
        named_runs = resolve_all(root, run_names)
    except UnknownRun:
        if position is None and len(run_names) > 1:  # a misspelt evaluator looks like a run
            plain_names = [text for text in run_names if "=" not in text]
            if nearest(plain_names[-1], evaluators) is None:
                resolve_all(root, plain_names[:-1])
            parse_request(plain_names[-1], ())
        raise
    runs = [run for run, is_named in named_runs.items() if is_named or run.state.status == "finished"]
    if not runs:
        raise RequestError(f"no run of {', '.join(run_names)} has finished")
    if unfinished := len(named_runs) - len(runs):
        click.echo(f"left out: {plural(unfinished, 'unfinished run')}", err=True)
    return runs, named_request


def _show(run: RunFolder, name: str, record: EvaluationRecord) -> None:
    from rich import box
    from rich.table import Table

    from lab.terminal import wide_console
    from lab.units import measure

    steps = f" of {record.steps:,}" if record.steps else ""
    click.echo(f"{run.name}, step {record.step:,}{steps}")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    table.add_column(name, justify="right")
    for metric, value in record.metrics.items():
        table.add_row(metric, f"{value:,}" if isinstance(value, int) else measure(value))
    wide_console().print(table)
    for image in record.images:
        click.echo(f"  {run.path / image}")

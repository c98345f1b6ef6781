"""`lab data`: what would be read of files, before anything is trained on them."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import json_option

if TYPE_CHECKING:
    from lab.data.inspect import InspectedFile, Inspection
    from lab.data.options import Data

_BASE = "gemma2_tiny"
_SHOWN_FILES = 20
_MEGABYTE = 1 << 20
_WIDTH = 100


@click.command("data")
@click.argument("words", metavar="[PATH]... [OVERRIDE]...", nargs=-1, shell_complete=completion.paths_or_data_overrides)
@click.option("--field", metavar="FIELD", help="Where the text of a row is: 'body', 'messages[].content'.")
@click.option("--experiment", metavar="NAME", help="Read as this experiment does; without PATH, its own corpus.",
              shell_complete=completion.experiments)  # fmt: skip
@click.option("--max-mb", type=click.IntRange(min=1), default=64, show_default=True, help="Megabytes of text to read.")
@click.option("--all", "everything", is_flag=True, help="Read everything, and list every file.")
@json_option
def command(
    words: tuple[str, ...], field: str | None, experiment: str | None, max_mb: int, everything: bool, as_json: bool
) -> None:
    """What training would read of PATH: files, formats, documents, tokens, first lines, and what is left out and why.

    OVERRIDES are those of the data, such as data.corpus.on_bad_row=skip or data/tokenizer=bpe. The exit code is 2 if
    something would end a run.
    """
    from lab.data.inspect import inspect_data

    data = _data(words, field, experiment)
    inspection = inspect_data(data, None if everything else max_mb * _MEGABYTE)
    if as_json:
        click.echo(json.dumps(_as_dict(inspection, data), indent=1))
    else:
        _print(inspection, data, everything)
    if inspection.problems:
        sys.exit(2)


def _data(words: tuple[str, ...], field: str | None, experiment: str | None) -> Data:
    from lab.composition.compose import compose_data
    from lab.planning.language.hydra_values import hydra_value
    from lab.refusals import RequestError

    paths = [word for word in words if "=" not in word or os.path.exists(word)]
    overrides = [word for word in words if word not in paths]
    if not paths and experiment is None:
        problem = "name files, a folder or a glob, or an experiment with --experiment"
        raise RequestError(problem, kind="missing", key="PATH")
    files = ["data/corpus=files", f"data.corpus.paths={hydra_value(paths)}"] if paths else []
    files += [] if field is None else [f"data.corpus.field={hydra_value(field)}"]
    data = compose_data(experiment or _BASE, [*files, *overrides])
    try:
        data.corpus.check_exists()
    except RequestError as error:
        raise error.within(key="data") from None
    return data


def _as_dict(inspection: Inspection, data: Data) -> dict[str, object]:
    from lab.composition.frozen.freeze import to_plain

    return {
        "data": to_plain(data),
        # asdict takes a Counter apart into pairs.
        "files": [asdict(file) | {"skipped": dict(file.skipped)} for file in inspection.files],
        "left_out": [{"path": str(each.path), "reason": each.reason} for each in inspection.left_out],
        "documents": inspection.documents,
        "train_documents": inspection.train_documents,
        "validation_documents": inspection.validation_documents,
        "text_bytes": inspection.text_bytes,
        "tokens": inspection.tokens,
        "bytes_per_token": inspection.bytes_per_token,
        "empty": sum(file.empty for file in inspection.files),
        "skipped": inspection.skipped,
        "examples": [{"key": key, "text": text} for key, text in inspection.examples],
        "is_complete": inspection.is_complete,
        "problems": inspection.problems,
    }


def _print(inspection: Inspection, data: Data, everything: bool) -> None:
    _print_files(inspection.files if everything else inspection.files[:_SHOWN_FILES])
    if not everything and (more := len(inspection.files) - _SHOWN_FILES) > 0:
        click.echo(f"  and {more:,} more files; --all lists them")
    for each in inspection.left_out[:_SHOWN_FILES]:
        click.echo(f"left out: {_printable(os.path.relpath(each.path))}: {each.reason}")
    if (more := len(inspection.left_out) - _SHOWN_FILES) > 0:
        click.echo(f"left out: {more:,} more")
    click.echo(_totals(inspection, data))
    for key, text in inspection.examples:
        click.echo(f"\n{_printable(key)}")
        for line in text.split("\n"):
            shown = _printable(line)
            click.echo(f"  | {shown[:_WIDTH]}{'…' if len(shown) > _WIDTH else ''}")
    for problem in inspection.problems[:_SHOWN_FILES]:
        click.echo(f"lab: {_printable(problem)}", err=True)
    if (more := len(inspection.problems) - _SHOWN_FILES) > 0:
        click.echo(f"lab: and {more:,} more problems", err=True)


def _print_files(files: list[InspectedFile]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from lab.terminal import wide_console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("format")
    for name in ("documents", "bytes of text"):
        table.add_column(name, justify="right")
    table.add_column("notes", overflow="fold")
    for file in files:
        figures = [f"{file.documents:,}", f"{file.text_bytes:,}"] if file.is_read else ["not read", ""]
        table.add_row(Text(_printable(file.name)), file.format, *figures, Text(_printable(_notes(file))))
    wide_console().print(table)


def _notes(file: InspectedFile) -> str:
    notes = ["validation"] if file.is_validation else []
    notes += file.notes
    notes += [f"{file.empty:,} empty"] if file.empty else []
    notes += [f"{count:,} rows without text: {reason}" for reason, count in file.skipped.items()]
    return "; ".join([*notes, *(["can't be read"] if file.problem else [])])


def _totals(inspection: Inspection, data: Data) -> str:
    from lab.units import plural

    tokenizer = data.tokenizer.name
    tokens = "tokens unknown"
    if inspection.tokens is not None and inspection.bytes_per_token is not None:
        tokens = f"{inspection.tokens:,} tokens ({tokenizer}), {inspection.bytes_per_token:.2f} bytes a token"
    sides = f"{inspection.train_documents:,} for training, {inspection.validation_documents:,} for validation"
    read = "" if inspection.is_complete else "of what was read (--all reads everything): "
    counted = plural(inspection.documents, "document")
    return f"{read}{counted}: {sides}; {inspection.text_bytes:,} bytes of text; {tokens}"


def _printable(text: str) -> str:
    """A text without what a terminal would act on."""
    shown = (character if character.isprintable() else repr(character)[1:-1] for character in text)
    return "".join(shown)

"""`lab why RUN [OTHER]`: explains why two runs differ, or why a run would be run again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import json_option, root_option

if TYPE_CHECKING:
    from rich.table import Table

    from lab.planning.plan.why import Differences, RunDifferences

_DIGEST = re.compile("[0-9a-f]{40,64}")


@click.command("why")
@click.argument("run", metavar="RUN", shell_complete=completion.runs)
@click.argument("other", metavar="[OTHER]", required=False, shell_complete=completion.runs)
@root_option
@json_option
def command(run: str, other: str | None, root: Path, as_json: bool) -> None:
    """Explain how RUN and OTHER differ: in configuration, component versions and code.

    Without OTHER, RUN is compared with the run that its sweep (or `lab train`) would plan in its place now.
    """
    from lab.planning.plan.why import compare_runs, compare_with_plan
    from lab.records import resolve

    first = resolve(root, run)
    why = compare_with_plan(first, root) if other is None else compare_runs(first, resolve(root, other))
    if as_json:
        click.echo(json.dumps(why.as_dict(), indent=1))
        return
    from lab.terminal import wide_console

    out = wide_console()
    click.echo(_verdict(why, alone=other is None))
    for title, part in _parts(why):
        if part:
            out.print(_table(title, part, why))


def _verdict(why: RunDifferences, *, alone: bool) -> str:
    a, b = why.a, why.b
    if b.text_problem is not None:
        same = (
            "with the text that it was trained on it would be the same run, and wouldn't be run again"
            if why.is_same_run
            else "it would also be another run with the text that it was trained on"
        )
        return f"{a.name} ({a.identity[:8]}): its text can't be used now: {b.text_problem}\n{same}"
    if why.is_same_run:
        same = f"same identity, {a.identity[:8]}"
        if alone:
            return f"{a.name}: {same}: planned now, it is the same run and isn't run again"
        return f"{a.name} and {b.name}: {same}: nothing that affects the result differs"
    if alone:
        return f"{a.name} ({a.identity[:8]}) would be run again, as {b.identity[:8]}"
    verdict = f"{a.name} ({a.identity[:8]}) and {b.name} ({b.identity[:8]}) are different runs"
    if not (why.config or why.components or why.text):
        verdict += (
            ": their configurations are equal but mean something else (another version of the lab, or another default "
            "of a component that an option names)"
        )
    return verdict


def _parts(why: RunDifferences) -> Iterator[tuple[str, Differences]]:
    yield "configuration", why.config
    yield "component versions", why.components
    yield "digest of the text", why.text
    yield "no effect on the result", why.quiet
    yield "code (not part of the identity)", why.code
    yield "own components (only their versions are part of the identity)", why.own
    yield "where it ran (not part of the identity)", why.place


def _table(title: str, part: Differences, why: RunDifferences) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("", overflow="fold")
    for name in (why.a.name, why.b.name):
        table.add_column(Text(name), overflow="fold")
    for key, (a, b) in part.items():
        table.add_row(Text(key), Text(_value(a)), Text(_value(b)))
    return table


def _value(value: object) -> str:
    """A value as in YAML; a digest is shortened to its first 12 characters."""
    if isinstance(value, str):
        return value[:12] if _DIGEST.fullmatch(value) else value
    return json.dumps(value, ensure_ascii=False)

"""Text of users is printed as it is: rich's markup and emoji codes have no meaning in it."""

from __future__ import annotations

import ast
import io
import os
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table

from lab.terminal import description_column, plain_console
from tests import forked
from tests.structure.sources import ROOT, SOURCES, tree

TEXT = "caps[hub] [bold]x[/] :smile: [/closing]"


def test_the_way_to_install_hub_is_listed_as_it_is_typed() -> None:
    done = forked.run("lab.cli.main", "list", "components", "corpus")
    assert "[hub]'" in done.stdout


def test_brackets_in_files_of_users_are_listed(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(f"question: '{TEXT}'\nexperiment: gemma2_tiny\narms: {{a: {{}}}}\n")
    done = forked.run("lab.cli.main", "list", "sweeps", cwd=tmp_path, environment=os.environ | {"COLUMNS": "300"})
    assert done.returncode == 0
    assert TEXT in done.stdout


def test_a_console_prints_text_titles_and_cells_as_they_are() -> None:
    file = io.StringIO()
    table = Table(TEXT, title=TEXT)
    table.add_row(TEXT)
    console = plain_console(file=file, width=200)
    console.print(TEXT)
    console.print(table)
    assert file.getvalue().count(TEXT) == 4


def test_a_progress_bar_shows_a_description_as_it_is() -> None:
    file = io.StringIO()
    console = plain_console(file=file, width=200, force_terminal=True, color_system=None)
    with Progress(description_column(), console=console) as bar:
        bar.add_task(TEXT, total=1)
    assert TEXT in file.getvalue()


@pytest.mark.parametrize("name", ["Console", "TextColumn", "from_markup"])
def test_consoles_are_made_in_one_place(name: str) -> None:
    """Calls of rich's own, which read markup, are in lab/terminal.py alone."""
    places = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) == name
    }
    assert places == ({"lab/terminal.py"} if name != "from_markup" else set())

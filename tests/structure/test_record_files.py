"""Only `lab.records` knows the names of the files that it reads and writes."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.structure.sources import ROOT, SOURCES, tree

FILES = (
    "run.json",
    "state.json",
    "summary.json",
    "metrics.jsonl",
    "plan.json",
    "frozen_plan.json",
    "stopped.json",
    ".claims",
    ".cancel.json",
)


def named_files(module: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of each string that names a record's file. Docstrings and comments may name them."""
    docstrings = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in docstrings else None
        if isinstance(text, str) and any(file in text for file in FILES):
            yield node.lineno, text


def test_no_file_outside_of_records_names_a_records_file() -> None:
    others = [path for path in SOURCES if not path.is_relative_to(ROOT / "lab/records")]
    assert others
    named = {path.relative_to(ROOT).as_posix(): list(named_files(tree(path))) for path in others}
    assert not {path: texts for path, texts in named.items() if texts}


@pytest.mark.parametrize(
    "source",
    ["path = folder / 'run.json'", "raise ValueError(f'{folder}/plan.json is missing')", "def f(): x = '.claims/1'"],
)
def test_a_name_in_code_or_in_a_message_counts(source: str) -> None:
    assert len(list(named_files(ast.parse(source)))) == 1


def test_a_name_in_a_docstring_or_a_comment_does_not_count() -> None:
    source = '"""run.json: a record."""\nx = 1  # from run.json\n"""Of state.json."""\ndef f():\n    """summary.json"""'
    assert not list(named_files(ast.parse(source)))

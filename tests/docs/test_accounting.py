"""docs/accounting.md: its commands print what it shows, and its table is that of the conventions."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.accounting.conventions import CONVENTIONS
from tests.docs.blocks import blocks, commands
from tests.docs.typed import Typed

DOC = Path(__file__).parents[2] / "docs" / "accounting.md"


@pytest.mark.slow
def test_the_pages_commands_do_what_it_says(run: Typed) -> None:
    tried = [command for block in blocks(DOC) if block.language == "console" for command in commands(block)]
    for command in tried:
        run(command)
    assert [command.line.split()[1] for command in tried] == ["plan", "train"]


def test_the_table_has_every_convention_in_order() -> None:
    rows = [line.split("|")[1:3] for line in DOC.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    shown = {key.strip(" `"): title.strip() for title, key in rows[1:]}
    assert shown == {key: " ".join(each.title.split()) for key, each in CONVENTIONS.items()}
    assert list(shown) == list(CONVENTIONS)

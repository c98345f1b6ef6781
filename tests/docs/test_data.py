"""docs/data.md: its commands print what it says, and it names every format that is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.data.formats.compression import MAGIC
from lab.data.formats.table import FORMATS
from lab.data.options import Files
from tests.docs.blocks import blocks, commands
from tests.docs.typed import Typed, write

DOC = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.mark.slow
def test_the_pages_commands_print_what_it_says(run: Typed) -> None:
    found = blocks(DOC)
    for block in found:
        if block.file:
            write(Path(block.file), block.text)
    tried = [run(command).args for block in found if block.language == "console" for command in commands(block)]
    assert len(tried) == 4


def test_it_names_every_suffix_and_option() -> None:
    page = DOC.read_text(encoding="utf-8")
    for suffix in [*MAGIC, *(suffix for each in FORMATS for suffix in each.suffixes)]:
        assert suffix in page
    for option in Files.__dataclass_fields__:  # type: ignore[attr-defined]
        assert f"`{option}" in page or f"{option}:" in page

"""docs/kernels.md: its commands do what it shows, and its table is that of the kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.attention.kernels import KERNELS
from tests.docs.blocks import blocks, commands
from tests.docs.typed import Typed

DOC = Path(__file__).parents[2] / "docs" / "kernels.md"


@pytest.mark.slow
def test_the_pages_commands_do_what_it_says(run: Typed) -> None:
    tried = [command for block in blocks(DOC) if block.language == "console" for command in commands(block)]
    for command in tried:
        run(command)
    assert [command.line.split()[1] for command in tried] == ["train", "bench"]
    assert not any(Path().iterdir()), "neither leaves anything"


def test_the_table_has_every_kernel() -> None:
    table = DOC.read_text(encoding="utf-8").split("| kernel | for | refuses |")[1].split("\n\n")[0]
    rows = [line.split("|")[1].strip(" `") for line in table.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(KERNELS)

"""What the documentation shows is what happens: its blocks are run in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import blocks, commands
from tests.docs.typed import Typed, write

ROOT = Path(__file__).parents[2]
CHEAP = ("lab list", "lab plan")


@pytest.mark.slow
def test_adding_a_component_goes_as_described(run: Typed) -> None:
    found = blocks(ROOT / "docs" / "add-a-component.md")
    written = [block for block in found if block.file]
    assert [block.file for block in written] == ["lab_components.py", "sweeps/late.yaml", "lab_components.py"]
    assert len(written[0].text.splitlines()) <= 15
    done = []
    for block in found:
        if block.file:
            write(Path(block.file), block.text)
        done += [command.line for command in commands(block) if run(command)] if block.language == "console" else []
    assert {"lab plan late", "lab submit late", "lab train gemma2_tiny model/mixer=centred"} <= set(done)


@pytest.mark.slow
def test_the_readmes_cheap_commands_do_what_it_says(run: Typed) -> None:
    found = blocks(ROOT / "README.md")
    for block in found:
        if block.file.startswith("sweeps/"):
            write(Path(block.file), block.text)
    tried = []
    for block in found:
        for command in commands(block) if block.language in ("", "sh", "console") else []:
            refused = any(line.startswith("lab: ") for line in command.output)
            if refused or command.line.startswith(CHEAP):
                run(command)
                tried.append(command.line)
    assert len(tried) >= 3, tried

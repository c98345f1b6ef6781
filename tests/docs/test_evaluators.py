"""docs/evaluators.md: its commands do what it says, on runs of a moment, and it shows every evaluator."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from components.registry import names
from lab.composition import extensions
from lab.evaluation.base import Evaluator
from lab.records import find_runs
from tests.docs.blocks import Command, blocks, commands
from tests.docs.typed import Typed, tiny, write

DOC = Path(__file__).parents[2] / "docs" / "evaluators.md"


@pytest.mark.slow
def test_the_pages_commands_do_what_it_says(run: Typed) -> None:
    """RUN, OTHER and SWEEP are runs that take a moment; all else is as it stands there."""
    found = blocks(DOC)
    for block in found:
        if block.file:
            write(Path(block.file), block.text)
    run(Command("lab plan spans", ("6 runs",)))
    write(Path("sweeps/tiny.yaml"), tiny(seeds=1))
    run(Command("lab submit tiny", ()))
    named = {"RUN": "tiny/a/seed-0", "OTHER": "tiny/b/seed-0", "SWEEP": "tiny"}
    tried = []
    for block in found:
        for command in commands(block) if not block.language else []:
            line = re.sub(r"\b(RUN|OTHER|SWEEP)\b", lambda match: named[match[1]], command.line)
            run(Command(line, command.output))
            tried.append(line.split()[1])
    assert tried.count("eval") >= 4
    first, _ = find_runs(Path("runs"), "tiny")
    assert first.summary is not None
    assert {"perplexity/loss", "recall/accuracy", "parameter_norm/norm"} <= set(first.summary.metrics)
    norm = json.loads((first.path / "evaluations/parameter_norm.json").read_text())
    assert norm["metrics"]["norm"] == first.summary.metrics["parameter_norm/norm"] > 0
    assert [path.name for path in Path("pictures").iterdir()] == ["loss_by_position.png"]
    shutil.rmtree("runs")


def test_the_page_has_every_evaluator_and_a_picture_of_it() -> None:
    extensions.load()
    text = DOC.read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]+\]\((images/evaluators/(\w+)\.png)\)", text)
    shipped = {name for name in names(Evaluator.kind) if name != "parameter_norm"}
    assert {name for _, name in shown} == shipped
    for file, name in shown:
        assert (DOC.parent / file).stat().st_size < 300_000, "a page is to load fast"
        assert f"`{name}`" in text

"""docs/your-data.md, docs/your-experiment.md and the README: commands do what they say, links lead somewhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.blocks import Command, blocks, commands
from tests.docs.typed import ROOT, Typed, tiny, write

PAGES = ROOT / "docs"


def written(page: Path) -> None:
    """Write the files that a page shows."""
    for block in blocks(page):
        if block.file:
            write(Path(block.file), block.text)


@pytest.mark.slow
def test_your_own_text_goes_as_described(run: Typed) -> None:
    page = PAGES / "your-data.md"
    written(page)
    tried = [command.line for block in blocks(page) for command in commands(block) if not block.file and run(command)]
    assert {"lab plan soup", "lab submit soup", "lab compare soup", "lab report soup"} <= set(tried)
    assert Path("runs/soup/report.html").is_file()
    shutil.rmtree("runs")


@pytest.mark.slow
def test_your_own_experiment_goes_as_described(run: Typed) -> None:
    """Its runs take half an hour, so a sweep that takes a moment stands in for those that are submitted."""
    page = PAGES / "your-experiment.md"
    written(page)
    for block in blocks(page):
        for command in commands(block) if not block.file else []:
            if "$" in block.text:
                run(command)
    write(Path("sweeps/windows.yaml"), tiny(seeds=2))
    write(Path("sweeps/softcap.yaml"), tiny(seeds=2))
    run(Command("lab submit windows", ()))
    run(Command("lab submit softcap", ()))
    tried = []
    for block in blocks(page):
        for command in commands(block) if not block.file and "$" not in block.text else []:
            run(command)
            tried.append(command.line)
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"`(lab compare [^`]+)`", text):
        run(Command(line, ()))
        tried.append(line)
    assert len(tried) >= 7
    shutil.rmtree("runs")


@pytest.mark.parametrize(
    "page", ["README.md", "docs/your-data.md", "docs/your-experiment.md", "docs/runs.md", "docs/models.md"]
)
def test_links_and_pictures_are_there(page: str) -> None:
    path = ROOT / page
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_readme_is_short_and_begins_with_the_gain() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    headings = [line for line in lines if line.startswith("## ")]
    assert headings[:2] == ["## What you gain over your own scripts", "## Two commands"]


def test_the_readme_names_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in PAGES.glob("*.md")}
    assert {page for page in pages if f"docs/{page}" not in text} == set()

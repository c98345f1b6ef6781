"""docs/sweeps.md: each sweep makes the arms that stand below it, and each refusal is the one that is shown."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from lab.planning.arms.expansion import expand
from lab.planning.language.read import read_sweep
from lab.planning.language.sweep import Sweep
from lab.planning.plan.build import plan_sweep
from lab.refusals import RequestError
from tests.docs.blocks import Block, blocks, commands
from tests.docs.typed import Typed

DOC = Path(__file__).parents[2] / "docs" / "sweeps.md"
BLOCKS = blocks(DOC)
SHOWN = [(a, b) for a, b in itertools.pairwise(BLOCKS) if b.language == "arms"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the page's sweeps."""
    work = tmp_path / "work"
    (work / "sweeps").mkdir(parents=True)
    for block in BLOCKS:
        if block.file.startswith("sweeps/"):
            (work / block.file).write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(work)
    return work


@pytest.mark.parametrize(("sweep", "arms"), SHOWN, ids=[Path(sweep.file).stem for sweep, _ in SHOWN])
def test_a_sweep_makes_the_arms_that_are_shown(sweep: Block, arms: Block) -> None:
    assert sweep.language == "yaml"
    name = Path(sweep.file).stem
    shown = {line.split()[0]: line.split()[1:] for line in arms.text.splitlines()}
    planned = plan_sweep(name).arms
    assert list(planned) == list(shown)
    made = {arm.name: list(arm.overrides) for arm in expand(read_sweep(name)).arms}
    assert {arm: overrides for arm, overrides in made.items() if shown[arm]} == {a: o for a, o in shown.items() if o}
    if all("=" not in arm for arm in shown):
        assert made == shown


def test_refusals_are_the_ones_that_are_shown() -> None:
    tried = []
    refused = [c for block in BLOCKS for c in commands(block) if c.output and c.output[0].startswith("lab: ")]
    for command in refused:
        assert command.line.startswith("lab plan ")
        with pytest.raises(RequestError) as refusal:
            plan_sweep(command.line.removeprefix("lab plan "))
        assert f"lab: {refusal.value}".startswith(command.output[0])
        tried.append(command.line)
    assert len(tried) >= 2


def test_every_key_of_the_language_has_an_example() -> None:
    used = {line.partition(":")[0] for block in BLOCKS if block.language == "yaml" for line in block.text.splitlines()}
    keys = {field.name for field in dataclasses.fields(Sweep)}
    assert keys <= used
    assert all(f"`{key}`" in DOC.read_text(encoding="utf-8") for key in keys)


def test_tuning_seeds_and_reported_seeds_are_those_that_the_page_names() -> None:
    runs = plan_sweep("tuned").runs
    assert {run.seed for run in runs if run.role == "tune"} == {3}
    assert {run.seed for run in runs if run.role == "report"} == {0, 1, 2}


def test_matched_arms_get_the_knobs_that_the_page_shows() -> None:
    ((sweep, shown),) = [(BLOCKS[at - 2], block) for at, block in enumerate(BLOCKS) if block.language == "knobs"]
    plan = plan_sweep(Path(sweep.file).stem)
    assert plan.matching is not None
    knobs = dict(line.split() for line in shown.text.splitlines())
    turned = {arm: value for arm, value in plan.matching.values.items() if arm != plan.baseline}
    assert {arm: f"{plan.matching.knob}={value}" for arm, value in turned.items()} == knobs


@pytest.mark.slow
def test_the_pages_commands_do_what_it_says(run: Typed, folder: Path) -> None:
    tried = [
        command.line
        for block in BLOCKS
        if block.language in ("sh", "console")
        for command in commands(block)
        if run(command)
    ]
    assert {"lab plan gates --save gates.json", "lab why small/gqa/seed-0 small/mha/seed-0"} <= set(tried)
    assert (folder / "gates.json").is_file()

"""Edited components in comparisons, plans, submissions and `lab why`: named with the file and the runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab.cli.main import main
from lab.comparison.comparability import mixtures
from lab.comparison.compare import compare
from lab.comparison.own_components import component_findings
from lab.comparison.read.collect import collect
from lab.comparison.tables.footnotes import footnotes
from lab.composition import extensions
from lab.dispatch.control.preparation.prepare import prepare
from lab.planning.plan.build import plan_sweep
from lab.planning.plan.why import compare_with_plan
from lab.records import Extensions, State, Summary
from tests.comparison.fake_runs import fake_run
from tests.composition.test_extensions import OWN

SWEEP = """\
question: Which cap?
experiment: gemma2_tiny
seeds: 2
baseline: none
arms: {none: {model/softcap: none}, scaled: {model/softcap: scaled}}
"""


def with_code(root: Path, arm: str, seed: int, code: Extensions) -> None:
    run = fake_run(root, arm, seed)
    run.record = replace(run.record, extensions=code)


def messages(root: Path) -> list[str]:
    return [finding.message for finding in component_findings(collect(root, "softcap"))]


def test_an_arm_whose_seeds_ran_different_contents_is_named(tmp_path: Path) -> None:
    for seed, digest in [(0, "a" * 64), (1, "a" * 64), (2, "b" * 64)]:
        with_code(tmp_path, "both", seed, Extensions("/nowhere/lab_components.py", digest))
        with_code(tmp_path, "none", seed, Extensions())
    comparison = compare(collect(tmp_path, "softcap"))
    assert messages(tmp_path) == []
    (mixture,) = mixtures(comparison.sweep.arms["both"])
    assert mixture.text == "own components: aaaaaaaa in seeds 0, 1; bbbbbbbb in seed 2"
    assert any(mixture.text in line for line in footnotes(comparison))


def test_arms_that_ran_different_contents_are_named_packages_too(tmp_path: Path) -> None:
    for seed in (0, 1):
        with_code(tmp_path, "both", seed, Extensions(packages={"caps": "own 1"}, digests={"caps": "a" * 64}))
        with_code(tmp_path, "none", seed, Extensions(packages={"caps": "own 1"}, digests={"caps": "c" * 64}))
    assert messages(tmp_path) == ["Arms ran different contents of package caps: both aaaaaaaa; none cccccccc"]


def test_runs_of_one_content_and_older_ones_without_digests_say_nothing(tmp_path: Path) -> None:
    for seed in (0, 1):
        with_code(tmp_path, "both", seed, Extensions("/nowhere/lab_components.py", "a" * 64))
        with_code(tmp_path, "none", seed, Extensions(packages={"caps": "own 1"}))
    assert messages(tmp_path) == []


def test_a_file_that_was_edited_since_is_named_and_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "lab_components.py"
    file.write_text("x = 1\n")
    now = hashlib.sha256(file.read_bytes()).hexdigest()
    for seed in (0, 1):
        with_code(tmp_path / "runs", "both", seed, Extensions(str(file), now))
    assert messages(tmp_path / "runs") == []
    file.write_text("x = 2\n")
    assert messages(tmp_path / "runs") == [
        "lab_components.py was edited since softcap/both/seed-0 and 1 more finished with it; they are not trained anew"
    ]
    file.unlink()
    os.mkfifo(file)  # reading it would wait for ever
    assert messages(tmp_path / "runs") == []


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A root with the runs of a sweep in the working folder, finished, and then edited components."""
    (tmp_path / "work" / "sweeps").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    Path("lab_components.py").write_text(OWN)
    Path("sweeps/mine.yaml").write_text(SWEEP)
    for run in prepare(plan_sweep("mine").runs, tmp_path / "runs").order:
        run.state = State(status="finished", attempts=1)
        run.summary = Summary(status="finished", metrics={"val/loss": 3.0 + len(run.name) / 100}, costs={"steps": 1})
    Path("lab_components.py").write_text(OWN.replace("10 *", "11 *"))
    yield tmp_path / "runs"
    monkeypatch.chdir(tmp_path)
    extensions.load()


def lab(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lab", *arguments])
    with contextlib.suppress(SystemExit):
        main()


@pytest.mark.slow
def test_plan_submit_compare_and_why_name_the_file_and_the_runs(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    said = {}
    for command in ("plan", "submit", "compare"):
        lab(monkeypatch, command, "mine", "--root", str(finished))
        output = capsys.readouterr()
        said[command] = " ".join((output.out + output.err).split())
    runs = "mine/scaled/seed-0, mine/scaled/seed-1"
    assert f"lab_components.py: edited since 2 runs finished with it ({runs}); they aren't trained anew" in said["plan"]
    assert (
        f"note: 2 of these runs ({runs}) were made with lab_components.py before you edited it (2 of them have their "
        "result); raise a component's version= to train them again"
    ) in said["submit"]
    assert "nothing to do: 4 of 4 finished" in said["submit"]
    assert "lab_components.py was edited since mine/scaled/seed-0 and 1 more finished with it" in said["compare"]
    why = compare_with_plan(next(iter(prepare(plan_sweep("mine").runs, finished).edited)), finished)
    assert why.is_same_run
    digests = tuple(hashlib.sha256(text.encode()).hexdigest() for text in (OWN, OWN.replace("10 *", "11 *")))
    assert why.own == {"lab_components.py": digests}

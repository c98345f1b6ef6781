"""A sweep that an earlier version planned, began and left half finished is continued, compared and reported as its own.

`tests/fixtures/half_finished` is a working folder as the version before the typed records left it: `gqa` has finished
with both seeds, `mha/seed-0` was interrupted with a checkpoint, `mha/seed-1` had not begun. `expected.json` is what
`lab compare half --json` of that version printed once it had finished the sweep itself, and `saved_plan.json` its plan.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lab.records import find_runs
from tests.warm import lab

pytestmark = pytest.mark.trains

FIXTURE = Path(__file__).parents[1] / "fixtures" / "half_finished"
RUNS = ["half/gqa/seed-0", "half/gqa/seed-1", "half/mha/seed-0", "half/mha/seed-1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(FIXTURE, tmp_path / "half_finished"))


def printed(folder: Path, *arguments: str) -> Any:
    done = lab(*arguments, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def identities(folder: Path) -> dict[str, str]:
    return {run.name: run.identity for run in find_runs(folder / "runs")}


def values(arm: dict[str, Any]) -> dict[int, float]:
    """Validation loss by seed."""
    return {seed["seed"]: seed["metrics"]["val/loss"] for seed in arm["seeds"]}


def test_its_plan_has_the_same_identities_and_knows_how_its_runs_stand(folder: Path) -> None:
    rows = printed(folder, "plan", "half", "--json")["runs"]
    assert {f"half/{row['arm']}/seed-{row['seed']}": row["identity"] for row in rows} == identities(folder)
    states = {row["run"]: row["status"] for row in printed(folder, "status", "half", "--json")["runs"]}
    assert states == dict(zip(RUNS, ["finished", "finished", "preempted", "queued"], strict=True))


def test_it_is_continued_compared_and_reported_with_the_numbers_that_the_earlier_version_gave(folder: Path) -> None:
    before = identities(folder)
    refused = lab("submit", "half", cwd=folder)
    assert refused.returncode == 2, "the code is another one, and nobody has agreed to that"
    output = printed(folder, "submit", "half", "--any-code", "--max-parallel", "1", "--threads", "1")
    assert "1 still to begin, 1 to continue, 2 already finished" in output
    assert identities(folder) == before
    assert list(before) == RUNS

    expected = json.loads((FIXTURE / "expected.json").read_text(encoding="utf-8"))
    comparison = printed(folder, "compare", "half", "--json")
    ours, theirs = ({arm["arm"]: arm for arm in table["arms"]} for table in (comparison, expected))
    assert list(ours) == list(theirs) == ["gqa", "mha"]
    assert values(ours["gqa"]) == values(theirs["gqa"]), "what had finished is read to the digit"
    # The rest is trained on this processor, whose products may round otherwise than that of the fixture.
    assert values(ours["mha"]) == pytest.approx(values(theirs["mha"]), abs=2e-4)
    assert comparison["unigram_loss"] == pytest.approx(expected["unigram_loss"], abs=1e-12)

    printed(folder, "report", "half")
    page = next(folder.rglob("*.html")).read_text(encoding="utf-8")
    assert all(name in page for name in RUNS)


def test_the_saved_plan_of_an_older_version_is_submitted(folder: Path) -> None:
    done = lab("submit", "saved_plan.json", "--any-code", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 still to begin, 1 to continue, 2 already finished" in done.stdout

"""Submitting a plan makes what is missing, runs what has no result, says what it found, and is safe to repeat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.control.preparation.submission import Submission
from lab.dispatch.worker.claim import Claim
from lab.records import Extensions, FolderTaken, RunFolder, RunRecord, State, Status, find_runs
from tests.dispatch.fakes import FAKE_WORKER, begun
from tests.dispatch.launch import submit_local
from tests.records.made import make_run, record


@dataclass(frozen=True)
class Planned:
    folder_name: str
    identity: str
    do: str = "nothing"

    @property
    def extensions(self) -> Extensions:
        return Extensions()

    @property
    def config_yaml(self) -> str:
        return yaml.safe_dump({"steps": 1, "pause": 0.01, "do": self.do, "deaf": False})

    @property
    def record(self) -> RunRecord:
        return record({"version": 1, "identity": self.identity})

    @property
    def files(self) -> dict[str, bytes]:
        return {}


PLAN = [Planned(f"caps/{arm}/seed-{seed}", f"{number:016x}") for number, (arm, seed) in enumerate(
    (arm, seed) for arm in ("both", "neither") for seed in (0, 1)
)]  # fmt: skip


def submit(plan: Sequence[Planned], root: Path, **options: Any) -> Submission:
    return submit_local(plan, root, max_parallel=2, threads=1, worker=FAKE_WORKER, **options)[0]


def names(runs: list[RunFolder]) -> list[str]:
    return [run.name for run in runs]


def test_a_plan_is_run_once_however_often_it_is_submitted(tmp_path: Path) -> None:
    said: list[str] = []
    first = submit(PLAN, tmp_path, on_submit=lambda s: said.append(s.describe()))
    assert names(first.new) == [planned.folder_name for planned in PLAN]
    second, summary = submit_local(PLAN, tmp_path, worker=FAKE_WORKER, on_submit=lambda s: said.append(s.describe()))
    assert said == ["4 new", "nothing to do: 4 of 4 finished"]
    assert summary.outcomes == {}
    assert len(second.finished) == 4
    assert [begun(run) for run in find_runs(tmp_path)] == [1] * 4


def test_runs_are_sorted_by_how_they_stand(tmp_path: Path) -> None:
    words: list[Status] = ["finished", "diverged", "failed", "blocked", "preempted", "lost", "running", "queued"]
    plan = [Planned(f"caps/{word}/seed-0", f"{number:016x}") for number, word in enumerate(words)]
    for word, run in zip(words, prepare(plan, tmp_path).order, strict=True):
        run.state = State(status=word)
    plan += [Planned("caps/new/seed-0", "a" * 16), Planned("caps/held/seed-0", "b" * 16)]
    held = make_run(tmp_path / plan[-1].folder_name, plan[-1].config_yaml, plan[-1].record)
    with Claim.take(held.path):  # type: ignore[union-attr]
        found = prepare(plan, tmp_path)
    assert found.describe() == (
        "1 new, 1 still to begin, 3 to continue, 1 failed before and left alone, 1 running elsewhere, "
        "1 already finished, 1 diverged, 1 blocked"
    )
    assert [run.path.parent.name for run in found.to_run] == ["preempted", "lost", "running", "queued", "new"]
    assert names(found.elsewhere) == ["caps/held/seed-0"]
    retried = prepare(plan, tmp_path, retry_failed=True)
    assert names(retried.to_run)[0] == "caps/failed/seed-0"
    assert "1 to retry" in retried.describe()


def test_failed_runs_are_left_alone_unless_asked_for(tmp_path: Path) -> None:
    plan = [replace(PLAN[0], do="bug"), PLAN[1]]
    submit(plan, tmp_path)
    again = submit(plan, tmp_path)
    assert again.describe() == "nothing to do: 1 failed before and left alone, 1 already finished"
    retried, summary = submit_local(plan, tmp_path, worker=FAKE_WORKER, retry_failed=True)
    assert names(retried.to_run) == [plan[0].folder_name]
    assert summary.outcomes == {plan[0].folder_name: "finished"}


def test_a_changed_arm_is_a_new_run_beside_the_old_one(tmp_path: Path) -> None:
    submit(PLAN[:1], tmp_path)
    changed = submit([replace(PLAN[0], identity="f" * 16)], tmp_path)
    assert names(changed.new) == ["caps/both/seed-0-ffffffff"]
    assert submit(PLAN[:1], tmp_path).describe() == "nothing to do: 1 of 1 finished"


def test_a_run_planned_twice_is_one_run(tmp_path: Path) -> None:
    assert names(submit([PLAN[0], PLAN[0]], tmp_path).order) == [PLAN[0].folder_name]


@pytest.mark.parametrize("name", ["seed-0", "caps/both", "../caps/seed-0", "/caps/both/seed-0", "caps//seed-0"])
def test_a_folder_outside_the_root_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        prepare([replace(PLAN[0], folder_name=name)], tmp_path / "runs")
    assert not list(tmp_path.rglob("run.json"))


def test_what_is_no_run_is_neither_run_nor_overwritten(tmp_path: Path) -> None:
    for name in ("seed-0", f"seed-0-{PLAN[0].identity[:8]}"):
        (tmp_path / "caps/both" / name).mkdir(parents=True)
        (tmp_path / "caps/both" / name / "notes.txt").write_text("mine")
    with pytest.raises(FolderTaken):
        submit(PLAN, tmp_path)


def test_what_a_folder_holds_is_the_plans(tmp_path: Path) -> None:
    run = prepare(PLAN[:1], tmp_path).new[0]
    assert (run.path / "config.yaml").read_text() == PLAN[0].config_yaml
    assert json.loads((run.path / "run.json").read_text()) == PLAN[0].record.as_json()

"""The same identity is never run twice below one root, whichever sweep asks for it and whoever else does meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.worker.claim import Claim
from lab.records import (
    Extensions,
    Need,
    PlanRecord,
    PlanRow,
    RunFolder,
    RunRecord,
    State,
    Status,
    SweepLabels,
    find_runs,
    recorded_folders,
    survey,
    write_plan_record,
)
from tests.dispatch.fakes import FAKE_WORKER, begun, read_rows
from tests.dispatch.launch import submit_local
from tests.records.made import make_run, record

HERE = Path(__file__)


@dataclass(frozen=True)
class Planned:
    folder_name: str
    identity: str
    needs: tuple[dict[str, str], ...] = ()

    @property
    def extensions(self) -> Extensions:
        return Extensions()

    @property
    def config_yaml(self) -> str:
        return yaml.safe_dump({"steps": 1, "pause": 0.01, "do": "nothing", "deaf": False})

    @property
    def record(self) -> RunRecord:
        sweep, arm, seed = self.folder_name.split("/")
        needs = [dict(need) for need in self.needs]
        return record({"identity": self.identity, "sweep": sweep, "arm": arm, "seed": int(seed[5:]), "needs": needs})

    @property
    def files(self) -> dict[str, bytes]:
        return {}


def sweep(name: str, *numbers: int) -> list[Planned]:
    return [Planned(f"{name}/arm{number}/seed-0", f"{number:064x}") for number in numbers]


def write_plan(root: Path, plan: list[Planned]) -> None:
    rows = [PlanRow(identity=run.identity, folder=run.folder_name, arm=run.folder_name.split("/")[1]) for run in plan]
    write_plan_record(
        root, plan[0].folder_name.split("/")[0], PlanRecord(runs=tuple(rows), labels=SweepLabels(question="Why?"))
    )


def names(runs: list[RunFolder]) -> list[str]:
    return [run.name for run in runs]


@pytest.fixture
def first(tmp_path: Path) -> list[RunFolder]:
    """The runs 0, 1 and 2 of a sweep called `first`, made and not begun."""
    return prepare(sweep("first", 0, 1, 2), tmp_path).new


def test_a_finished_run_of_another_sweep_counts_as_finished(tmp_path: Path, first: list[RunFolder]) -> None:
    for run in first:
        run.state = State(status="finished")
    found = prepare(sweep("second", 1, 2), tmp_path)
    assert found.describe() == "nothing to do: 2 of 2 finished, 2 reused from first"
    assert names(found.finished) == names(found.reused) == ["first/arm1/seed-0", "first/arm2/seed-0"]
    assert found.to_run == []
    assert not (tmp_path / "second").exists()


def test_one_that_has_no_result_yet_is_run_where_it_stands(tmp_path: Path, first: list[RunFolder]) -> None:
    first[0].state = State(status="preempted", attempts=1)
    found, summary = submit_local(sweep("second", 0, 1, 7), tmp_path, worker=FAKE_WORKER, max_parallel=1, threads=1)
    assert found.describe() == "1 new, 1 still to begin, 1 to continue, 2 reused from first"
    assert list(summary.outcomes) == ["first/arm0/seed-0", "first/arm1/seed-0", "second/arm7/seed-0"]
    assert prepare(sweep("first", 0, 1, 2), tmp_path).describe() == "1 still to begin, 2 already finished"
    assert [begun(run) for run in find_runs(tmp_path)] == [1, 1, 0, 1]


def test_one_that_somebody_is_at_is_waited_for(tmp_path: Path, first: list[RunFolder]) -> None:
    with Claim.take(first[0].path):  # type: ignore[union-attr]
        assert names(prepare(sweep("second", 0), tmp_path).elsewhere) == ["first/arm0/seed-0"]


def test_of_several_the_one_that_is_furthest_is_used(tmp_path: Path) -> None:
    states: dict[str, Status] = {"a": "queued", "b": "finished", "c": "failed"}
    for name, word in states.items():
        run = make_run(tmp_path / name / "x" / "seed-0", "steps: 1\n", {"identity": "f" * 64})
        run.state = State(status=word)
    assert names(prepare([Planned("d/x/seed-0", "f" * 64)], tmp_path).finished) == ["b/x/seed-0"]


def test_an_arm_that_was_renamed_is_the_run_that_it_was(tmp_path: Path, first: list[RunFolder]) -> None:
    found = prepare([Planned("first/better_name/seed-0", f"{1:064x}")], tmp_path)
    assert names(found.waiting) == ["first/arm1/seed-0"]
    assert found.new == []


def test_what_is_broken_or_no_run_is_not_used(tmp_path: Path, first: list[RunFolder]) -> None:
    (first[0].path / "config.yaml").unlink()
    (first[1].path / "run.json").write_text("{")
    assert names(prepare(sweep("second", 0, 1), tmp_path).new) == ["second/arm0/seed-0", "second/arm1/seed-0"]


class TestTheSweepsPlan:
    def test_the_plan_records_the_folder_of_each_run(self, tmp_path: Path, first: list[RunFolder]) -> None:
        plan = sweep("second", 1, 7)
        write_plan(tmp_path, plan)
        prepare(plan, tmp_path)
        content = json.loads((tmp_path / "second" / "plan.json").read_text())
        assert [row["folder"] for row in content["runs"]] == ["first/arm1/seed-0", "second/arm7/seed-0"]
        assert content["question"] == "Why?"

    def test_is_left_as_it_is_where_every_run_stands_at_home(self, tmp_path: Path) -> None:
        plan = sweep("second", 1, 7)
        write_plan(tmp_path, plan)
        before = (tmp_path / "second" / "plan.json").stat().st_mtime_ns
        prepare(plan, tmp_path)
        assert (tmp_path / "second" / "plan.json").stat().st_mtime_ns == before

    def test_spares_the_next_submit_the_search(
        self, tmp_path: Path, first: list[RunFolder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = sweep("second", 1, 2)
        write_plan(tmp_path, plan)
        prepare(plan, tmp_path)
        monkeypatch.setattr(
            "lab.dispatch.control.preparation.locate.run_paths", lambda *_: pytest.fail("searched again")
        )
        assert len(prepare(plan, tmp_path).waiting) == 2

    def test_that_names_a_folder_which_is_gone_is_not_believed(self, tmp_path: Path, first: list[RunFolder]) -> None:
        import shutil

        plan = sweep("second", 1)
        write_plan(tmp_path, plan)
        prepare(plan, tmp_path)
        shutil.rmtree(first[1].path)
        assert recorded_folders(tmp_path, "second") == {plan[0].identity: "first/arm1/seed-0"}
        assert names(prepare(plan, tmp_path).new) == ["second/arm1/seed-0"]
        assert recorded_folders(tmp_path, "second") == {}

    def test_shows_them_in_the_status_of_the_sweep(self, tmp_path: Path, first: list[RunFolder]) -> None:
        plan = sweep("second", 1, 7)
        write_plan(tmp_path, plan)
        prepare(plan, tmp_path)
        assert [row.run for row in read_rows(tmp_path, "second")] == ["first/arm1/seed-0", "second/arm7/seed-0"]
        assert len(survey(tmp_path).runs) == 4  # each once, where all are asked for

    @pytest.mark.parametrize("content", ["", "[]", '{"runs": 3}', '{"runs": [{}]}'])
    def test_that_cannot_be_read_hides_no_run(self, tmp_path: Path, first: list[RunFolder], content: str) -> None:
        (tmp_path / "first" / "plan.json").write_text(content)
        assert len(survey(tmp_path, "first").runs) == 3
        assert len(prepare(sweep("first", 0, 1, 2), tmp_path).waiting) == 3


def test_what_a_new_run_needs_is_named_where_it_stands(tmp_path: Path, first: list[RunFolder]) -> None:
    first[0].state = State(status="finished")
    teacher, student = f"{0:064x}", f"{9:064x}"
    need = {"path": "recipe.teacher", "identity": teacher, "run": "second/teacher/seed-0"}
    plan = [Planned("second/teacher/seed-0", teacher), Planned("second/student/seed-0", student, (need,))]
    made = prepare(plan, tmp_path).new
    assert names(made) == ["second/student/seed-0"]
    assert made[0].record.needs == (Need("recipe.teacher", teacher, "first/arm0/seed-0"),)


@pytest.mark.slow
def test_sweeps_that_are_submitted_at_once_make_each_run_once(tmp_path: Path) -> None:
    """Eight processes, of eight sweeps with the same forty runs, each in an order of its own."""
    script = (
        "import sys, random\n"
        "from pathlib import Path\n"
        "from lab.dispatch.control.preparation.prepare import prepare\n"
        "from tests.dispatch.test_reuse import sweep\n"
        "plan = sweep(sys.argv[2], *range(40))\n"
        "random.Random(sys.argv[2]).shuffle(plan)\n"
        "input()\n"
        "print(len(prepare(plan, Path(sys.argv[1])).new))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "runs"), f"sweep{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parents[2],
        )
        for number in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    made = [int(process.communicate(timeout=300)[0]) for process in processes]
    assert sum(made) == 40
    found = Counter(run.identity for run in find_runs(tmp_path / "runs"))
    assert len(found) == 40
    assert set(found.values()) == {1}


def test_a_submitter_that_died_while_it_made_runs_is_not_waited_for(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from lab.dispatch.control.preparation.locate import alone\n"
        "with alone(Path(sys.argv[1])): os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=HERE.parents[2], check=False)
    assert len(prepare(sweep("first", 0), tmp_path).new) == 1

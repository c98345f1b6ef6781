"""Runs that need runs: none begins before what it needs has finished, none is lost for want of it, all say why."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.dispatch.control import dependencies
from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.launchers.local.scheduler import LocalSummary, run_local
from lab.dispatch.worker.attempt import BLOCKED, Stop
from lab.dispatch.worker.claim import Claim
from lab.records import Extensions, RunFolder, RunRecord, State
from tests.dispatch.fakes import FAKE_WORKER, begun, marks, read_rows
from tests.records.made import make_run, record

pytestmark = pytest.mark.slow

Until = Callable[..., None]


@dataclass(frozen=True)
class Planned:
    """A planned run that the fake worker can run, and the names of those that it needs."""

    folder_name: str
    needed: tuple[str, ...] = ()
    do: str = "nothing"
    steps: int = 2
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def extensions(self) -> Extensions:
        return Extensions()

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.folder_name.encode()).hexdigest()

    @property
    def config_yaml(self) -> str:
        return yaml.safe_dump(
            {"steps": self.steps, "pause": 0.01, "do": self.do, "deaf": False, "train": {"accelerator": "cpu"}}
        )

    @property
    def record(self) -> RunRecord:
        wanted = [
            {"path": f"recipe.teacher{n}", "identity": Planned(name).identity, "run": name}
            for n, name in enumerate(self.needed)
        ]
        return record({"version": 2, "identity": self.identity, "needs": wanted})


def make(root: Path, plan: list[Planned]) -> dict[str, RunFolder]:
    runs = [make_run(root / each.folder_name, each.config_yaml, each.record) for each in plan]
    return {run.path.parent.name: run for run in runs}


def family(do: str = "nothing") -> list[Planned]:
    """A teacher, its student, the student's student, and somebody else; the youngest first."""
    return [
        Planned("school/grandchild/seed-0", ("school/student/seed-0",)),
        Planned("school/student/seed-0", ("school/teacher/seed-0",)),
        Planned("school/other/seed-0"),
        Planned("school/teacher/seed-0", do=do, steps=6),
    ]


def run_all(runs: list[RunFolder], **options: Any) -> LocalSummary:
    return run_local(runs, **({"max_parallel": 2, "threads": 1, "worker": FAKE_WORKER} | options))


def statuses(runs: dict[str, RunFolder]) -> dict[str, str]:
    return {name: run.state.status for name, run in runs.items()}


def times(run: RunFolder) -> tuple[float, float]:
    """When it began and when it ended."""
    (_, _, began), (_, _, ended) = marks(run)
    return began, ended


@pytest.mark.parametrize("max_parallel", [1, 3])
def test_a_run_begins_when_what_it_needs_has_finished(tmp_path: Path, max_parallel: int) -> None:
    runs = make(tmp_path, family(do="meet"))
    summary = run_all(list(runs.values()), max_parallel=max_parallel)
    assert set(summary.outcomes.values()) == {"finished"}
    assert len(summary.outcomes) == 4
    assert times(runs["teacher"])[1] < times(runs["student"])[0]
    assert times(runs["student"])[1] < times(runs["grandchild"])[0]
    assert times(runs["other"])[0] < times(runs["teacher"])[1], "nobody else waits"


def test_what_needs_a_failed_run_is_blocked_with_the_reason_and_nobody_else(tmp_path: Path) -> None:
    runs = make(tmp_path, family(do="bug"))
    told: list[str] = []
    summary = run_all(list(runs.values()), on_change=lambda run: told.append(f"{run.name} {run.state.status}"))
    assert summary.outcomes == {runs["teacher"].name: "failed", runs["other"].name: "finished"}
    assert summary.skipped_runs == {runs["student"].name: "blocked", runs["grandchild"].name: "blocked"}
    assert runs["student"].state.reason == "needs school/teacher/seed-0, which failed: KeyError: 'n_heads'"
    assert runs["grandchild"].state.reason == (
        "needs school/student/seed-0, which is blocked: needs school/teacher/seed-0, which failed: KeyError: 'n_heads'"
    )
    assert begun(runs["student"]) == begun(runs["grandchild"]) == 0
    assert runs["student"].state.attempts == 0
    assert f"{runs['student'].name} blocked" in told
    assert [row.status for row in read_rows(tmp_path)].count("blocked") == 2


def test_blocked_runs_go_on_in_the_call_that_mends_what_they_need(tmp_path: Path) -> None:
    runs = make(tmp_path, family(do="bug"))
    run_all(list(runs.values()))
    assert run_all(list(runs.values())).outcomes == {}, "nothing has changed"
    assert statuses(runs)["student"] == "blocked"
    run_all(list(runs.values()), retry_failed=True)
    assert set(statuses(runs).values()) == {"finished"}
    assert [begun(run) for run in runs.values()] == [1, 1, 1, 2]
    assert runs["student"].state.reason is None


def test_submitting_again_takes_up_blocked_runs_exactly_when_they_can_go_on(tmp_path: Path) -> None:
    plan = family(do="bug")
    runs = make(tmp_path, plan)
    run_all(list(runs.values()))
    again = prepare(plan, tmp_path)
    assert again.describe() == "nothing to do: 1 failed before and left alone, 1 already finished, 2 blocked"
    retried = prepare(plan, tmp_path, retry_failed=True)
    assert [run.path.parent.name for run in retried.to_run] == ["grandchild", "student", "teacher"]
    assert retried.blocked == []
    run_all([runs["teacher"]], retry_failed=True)
    mended = prepare(plan, tmp_path)
    assert [run.path.parent.name for run in mended.to_run] == ["grandchild", "student"]
    assert mended.describe() == "2 to continue, 2 already finished"


def test_what_needs_a_diverged_run_stays_blocked(tmp_path: Path) -> None:
    plan = family(do="diverge")
    runs = make(tmp_path, plan)
    run_all(list(runs.values()))
    assert "which diverged: the loss is nan at step 3" in (runs["student"].state.reason or "")
    assert len(prepare(plan, tmp_path, retry_failed=True).blocked) == 2
    run_all(list(runs.values()), retry_failed=True)
    assert statuses(runs) == {"grandchild": "blocked", "student": "blocked", "other": "finished", "teacher": "diverged"}


def test_a_lost_need_blocks_until_it_has_been_gone_on_with(tmp_path: Path) -> None:
    runs = make(tmp_path, family(do="kill"))
    run_all(list(runs.values()))
    assert statuses(runs)["teacher"] == "lost"
    assert runs["student"].state.reason == "needs school/teacher/seed-0, which was lost"
    assert len(prepare(family(do="kill"), tmp_path).to_run) == 3
    run_all(list(runs.values()))
    assert set(statuses(runs).values()) == {"finished"}


def test_a_run_whose_need_nobody_is_going_to_run_is_blocked(tmp_path: Path) -> None:
    runs = make(tmp_path, family())
    assert run_all([runs["student"]]).skipped_runs == {runs["student"].name: "blocked"}
    assert runs["student"].state.reason == "needs school/teacher/seed-0, which has not begun"


def test_a_need_that_is_not_there_is_named(tmp_path: Path) -> None:
    [student] = make(tmp_path, family()[1:2]).values()
    run_all([student])
    assert (student.state.status, student.state.reason) == (
        "blocked",
        "needs school/teacher/seed-0, which is not there",
    )


@pytest.mark.parametrize("place", ["school/teacher/seed-0-{identity}", "elsewhere/same/seed-4"])
def test_a_need_is_found_by_its_identity_wherever_it_stands(tmp_path: Path, place: str) -> None:
    teacher, student = family()[3], family()[1]
    other = Planned("school/teacher/seed-0", ("x/y/seed-0",))
    taken = make_run(tmp_path / other.folder_name, other.config_yaml, {"identity": "f" * 64})
    taken.state = State(status="finished")
    path = tmp_path / place.format(identity=teacher.identity[:8])
    stands = make_run(path, teacher.config_yaml, teacher.record)
    run = make_run(tmp_path / student.folder_name, student.config_yaml, student.record)
    assert dependencies.find(run, dependencies.of(run)[0]) == stands
    assert dependencies.standing(run).status == "blocked", "not the finished run whose place it would be"
    assert run_all([run, stands]).outcomes == {stands.name: "finished", run.name: "finished"}


def test_a_need_that_another_process_is_at_is_waited_for(tmp_path: Path, until: Until) -> None:
    plan = family()
    plan[3] = Planned("school/teacher/seed-0", steps=60)
    runs = make(tmp_path, plan)
    with subprocess.Popen([*FAKE_WORKER, str(runs["teacher"].path)], cwd=Path(__file__).parents[2]) as other:
        until(lambda: begun(runs["teacher"]))
        assert run_all([runs["student"]]).outcomes == {runs["student"].name: "finished"}
        assert other.wait(300) == 0
    assert times(runs["teacher"])[1] < times(runs["student"])[0]


def test_a_stopped_call_leaves_what_waits_as_it_is(tmp_path: Path, until: Until) -> None:
    plan = family()
    plan[3] = Planned("school/teacher/seed-0", steps=1000)
    runs = make(tmp_path, plan)
    stop, summaries = Stop(), []
    thread = threading.Thread(target=lambda: summaries.append(run_all(list(runs.values()), stop=stop)))
    thread.start()
    until(lambda: begun(runs["teacher"]))
    stop.request("the test")
    thread.join(300)
    assert sorted(summaries[0].pending_runs) == [runs["grandchild"].name, runs["student"].name]
    assert statuses(runs)["student"] == "queued"


def test_a_worker_refuses_a_run_whose_need_has_not_finished(tmp_path: Path) -> None:
    runs = make(tmp_path, family())
    runs["teacher"].state = State(status="running", attempts=1, host="here", pid=1)
    with Claim.take(runs["teacher"].path):  # type: ignore[union-attr]
        done = subprocess.run([*FAKE_WORKER, str(runs["student"].path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == BLOCKED == 5
    assert runs["student"].state == State(status="blocked", reason="needs school/teacher/seed-0, which has not ended")
    assert begun(runs["student"]) == 0
    runs["teacher"].state = State(status="finished", attempts=1)
    assert subprocess.run([*FAKE_WORKER, str(runs["student"].path)], check=False).returncode == 0
    assert runs["student"].state.status == "finished"


def test_a_worker_process_is_blocked_by_an_unfinished_need(tmp_path: Path) -> None:
    runs = make(tmp_path, family())
    command = [sys.executable, "-m", "lab.dispatch.worker", str(runs["student"].path)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == BLOCKED
    assert runs["student"].state.status == "blocked"


def test_a_blocked_run_that_somebody_holds_is_left_to_them(tmp_path: Path) -> None:
    runs = make(tmp_path, family())
    with Claim.take(runs["student"].path):  # type: ignore[union-attr]
        assert not dependencies.block(runs["student"], "a reason")
    assert runs["student"].state == State()


@pytest.mark.parametrize("seed", range(3))
def test_a_graph_with_failures_runs_just_what_it_can(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    names = [f"graph/{n}/seed-0" for n in range(14)]
    plan = [
        Planned(
            name,
            tuple(draw.sample(names[:n], min(n, draw.choice([0, 1, 1, 2])))),
            do=draw.choice(["nothing"] * 5 + ["bug", "diverge"]),
            steps=draw.choice([1, 3]),
        )
        for n, name in enumerate(names)
    ]
    expected: dict[str, str] = {}
    for each in plan:
        own = {"nothing": "finished", "bug": "failed", "diverge": "diverged"}[each.do]
        expected[each.folder_name] = own if all(expected[name] == "finished" for name in each.needed) else "blocked"
    shuffled = draw.sample(plan, len(plan))
    runs = {each.folder_name: prepare([each], tmp_path).order[0] for each in shuffled}
    run_all(list(runs.values()), max_parallel=3)
    assert {name: run.state.status for name, run in runs.items()} == expected
    assert all(begun(run) == (expected[name] != "blocked") for name, run in runs.items())
    for each in plan:
        if expected[each.folder_name] == "finished":
            assert all(times(runs[name])[1] < times(runs[each.folder_name])[0] for name in each.needed)


def test_two_launchers_at_once_run_nothing_twice_and_block_nothing(tmp_path: Path) -> None:
    plan = [Planned(f"school/teacher/seed-{n}", steps=8) for n in range(3)]
    plan += [Planned(f"school/student/seed-{n}", (f"school/teacher/seed-{n}",)) for n in range(3)]
    runs = [run for each in plan for run in prepare([each], tmp_path).order]
    command = [sys.executable, "-m", "tests.dispatch.launch", str(tmp_path), "2"]
    both = [subprocess.Popen(command, cwd=Path(__file__).parents[2], env=os.environ) for _ in range(2)]
    assert [each.wait(300) for each in both] == [0, 0]
    assert [run.state.status for run in runs] == ["finished"] * 6
    assert [begun(run) for run in runs] == [1] * 6

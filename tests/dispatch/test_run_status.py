"""Status is read from run folders alone, and sees through a state whose writer is gone."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.dispatch.status import status
from lab.dispatch.worker.claim import Claim, holder
from lab.records import Progress, RunFolder, State, find_broken
from tests.dispatch.fakes import read_rows

Make = Callable[..., RunFolder]


def progress(**changes: float | None) -> Progress:
    return Progress(**{"step": 3, "steps": 9, "tokens": 30, "loss": 2.0, "tokens_per_second": 10.0, **changes})  # type: ignore[typeddict-item]


def test_a_running_run_shows_how_far_it_is(make: Make) -> None:
    run = make("caps/both/seed-3")
    assert Claim.take(run.path) is not None
    run.state = State(status="running", attempts=2, heartbeat=time.time() - 5, host="n1", pid=7, progress=progress())
    row = status.read_row(run)
    assert (row.run, row.sweep, row.arm, row.seed) == ("caps/both/seed-3", "caps", "both", 3)
    assert (row.status, row.attempts, row.host, row.pid) == ("running", 2, "n1", 7)
    assert (row.step, row.steps, row.tokens, row.loss, row.tokens_per_second) == (3, 9, 30, 2.0, 10.0)
    assert row.eta == pytest.approx(6 * 10 / 10)
    assert row.heartbeat_age is not None
    assert 5 <= row.heartbeat_age < 60


def test_a_run_that_nobody_runs_is_lost_whatever_its_state_says(make: Make) -> None:
    run = make("caps/both/seed-0")
    stored = State(status="running", attempts=1, heartbeat=time.time() - 500, host="n1", pid=7, progress=progress())
    run.state = stored
    row = status.read_row(run)
    assert row.status == "lost"
    assert row.failure == "interrupted"
    assert "process 7 on n1" in (row.reason or "")
    assert row.eta is None
    assert run.state == stored, "reading changes nothing"


def test_a_run_that_ends_while_it_is_looked_at_is_not_lost(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("caps/both/seed-0")
    claim = Claim.take(run.path)
    assert claim is not None
    run.state = State(status="running")

    def ends_now(path: Path) -> object:
        run.state = State(status="finished")
        claim.release()
        return holder(path)

    monkeypatch.setattr(status, "holder", ends_now)
    assert status.read_row(run).status == "finished"


def test_a_run_that_does_not_run_has_no_speed(make: Make) -> None:
    run = make("caps/both/seed-0")
    run.state = State(status="preempted", progress=progress())
    row = status.read_row(run)
    assert (row.step, row.tokens_per_second, row.eta) == (3, None, None)


def test_rows_of_a_sweep_and_their_counts(make: Make, tmp_path: Path) -> None:
    for name in ("b/x/seed-0", "a/x/seed-1", "a/x/seed-0"):
        make(name)
    make("a/y/seed-0").state = State(status="finished")
    assert [row.run for row in read_rows(tmp_path)] == ["a/x/seed-0", "a/x/seed-1", "a/y/seed-0", "b/x/seed-0"]
    assert status.counts(read_rows(tmp_path, "a")) == {"queued": 2, "finished": 1}


def test_json_is_json_even_of_a_diverged_run_and_names_broken_folders(make: Make, tmp_path: Path) -> None:
    run, torn = make("caps/both/seed-0"), make("caps/both/seed-1")
    run.state = State(status="diverged", progress=progress(loss=math.nan))
    (torn.path / "state.json").write_text("{")
    rows = read_rows(tmp_path)
    printed = json.dumps(status.to_json(rows, find_broken(tmp_path)), allow_nan=False)
    data = json.loads(printed)
    assert data["version"] == 1
    assert [row["run"] for row in data["runs"]] == ["caps/both/seed-0"]
    assert data["runs"][0]["loss"] is None
    assert data["counts"] == {"diverged": 1}
    assert data["broken"][0]["path"].endswith("caps/both/seed-1")

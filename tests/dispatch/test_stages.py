"""Tuning runs first, then what each arm picked: whatever is killed, repeated or edited in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.dispatch.control.preparation.submission import Submission
from lab.dispatch.control.stages import Stages
from lab.planning.plan.build import plan_sweep
from lab.planning.plan.model import Plan
from lab.planning.plan.store import save_plan
from lab.planning.solve import selection
from lab.planning.solve.tuning import MEASURED
from lab.records import RunFolder, State, find_runs, write_json

HEAD = "question: Why?\nexperiment: gemma2_tiny\noverrides: {train.tokens: 4k, schedule.warmup_tokens: 0}\n"
ARMS = "arms: {gqa: {}, mha: {model/heads: mha}}\n"
TUNED = "tune: {axes: {optimizer.lr: [1e-3, 2e-3, 4e-3]}}\n"

Sweep = Callable[..., Plan]
Losses = Mapping[str, float | str]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """sweep(text) → the plan of sweeps/tuned.yaml, submitted: its plan.json stands in runs/."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)

    def planned(text: str = TUNED, *, arms: str = ARMS, seeds: str = "2") -> Plan:
        (tmp_path / "sweeps" / "tuned.yaml").write_text(f"{HEAD}{arms}seeds: {seeds}\n{text}")
        plan = plan_sweep("tuned")
        save_plan(plan, Path("runs"))
        return plan

    return planned


def stages(plan: Plan, **options: Any) -> Stages:
    return Stages(plan, Path("runs"), **options)


def run(submission: Submission | None, losses: Losses) -> list[str]:
    """Give each run of a stage the loss of its cell (a part of its name), or a status; the names of those run."""
    assert submission is not None
    for folder in submission.to_run:
        come_to(folder, next(what for cell, what in losses.items() if cell in folder.name))
    return [folder.name for folder in submission.to_run]


def come_to(folder: RunFolder, what: float | str) -> None:
    if isinstance(what, str):
        folder.state = State(status=what, attempts=1, reason="why not")  # type: ignore[arg-type]
        return
    folder.state = State(status="finished", attempts=1)
    write_json(folder.path / "summary.json", {"status": "finished", "metrics": {"val/loss": what}})


BEST_2 = {"lr=0.001": 3.2, "lr=0.002": 3.0, "lr=0.004": 3.1}
BEST_4 = {"lr=0.001": 3.2, "lr=0.002": 3.0, "lr=0.004": 2.9}


def test_only_what_was_picked_is_ever_made(sweep: Sweep) -> None:
    found = stages(sweep())
    assert run(found.next(), {"mha,lr=0.004": 2.0, **BEST_2}) == [
        f"tuned/{arm},lr={lr}/seed-2" for arm in ("gqa", "mha") for lr in ("0.001", "0.002", "0.004")
    ]
    assert run(found.next(), BEST_2) == [
        *[f"tuned/gqa,lr=0.002/seed-{seed}" for seed in (0, 1)],
        *[f"tuned/mha,lr=0.004/seed-{seed}" for seed in (0, 1)],
    ]
    assert found.next() is None
    assert len(find_runs("runs", "tuned")) == 6 + 4
    assert found.news() == [
        "gqa: optimizer.lr = 0.002, picked on seed 2 of 3 values",
        "mha: optimizer.lr = 0.004, picked on seed 2 of 3 values; at the edge: the largest optimizer.lr tried",
    ]


def test_what_was_picked_is_on_record_for_readers(sweep: Sweep) -> None:
    found = stages(sweep())
    run(found.next(), BEST_2)
    found.next()
    picked = json.loads(Path("runs/tuned/plan.json").read_text())["selected"]
    assert picked["gqa"] == {
        "cell": "lr=0.002",
        "values": {"optimizer.lr": 0.002},
        "metric": "val/loss",
        "seeds": [2],
        "tried": 3,
        "means": BEST_2,
        "diverged": [],
        "waiting": 0,
        "edges": {},
    }


def test_without_tuned_axes_there_is_one_stage(sweep: Sweep) -> None:
    found = stages(sweep(""))
    assert len(run(found.next(), {"": 3.0})) == 4
    assert found.next() is None
    assert found.selections == {}
    assert "selected" not in json.loads(Path("runs/tuned/plan.json").read_text())


def test_repeating_it_continues_where_the_folders_stand_and_then_has_nothing_to_do(sweep: Sweep) -> None:
    killed = stages(sweep()).next()  # between the stages, with one tuning run still to come
    assert killed is not None
    for folder in killed.order[:-1]:
        come_to(folder, BEST_2[folder.path.parent.name.split(",")[1]])
    again = stages(sweep())
    first = again.next()
    assert run(first, BEST_2) == ["tuned/mha,lr=0.004/seed-2", *[f"tuned/gqa,lr=0.002/seed-{seed}" for seed in (0, 1)]]
    assert run(again.next(), BEST_2) == [f"tuned/mha,lr=0.002/seed-{seed}" for seed in (0, 1)]
    last = stages(sweep())
    nothing = last.next()
    assert nothing is not None
    assert nothing.describe() == "nothing to do: 10 of 10 finished"
    assert last.next() is None
    assert last.news() == []


def test_an_arm_waits_for_its_failed_tuning_run_and_the_others_go_on(sweep: Sweep) -> None:
    found = stages(sweep())
    run(found.next(), {"mha,lr=0.001": "failed", **BEST_2})
    assert run(found.next(), BEST_2) == [f"tuned/gqa,lr=0.002/seed-{seed}" for seed in (0, 1)]
    assert found.next() is None
    (waiting,) = found.unpicked
    assert [run.run for run in waiting.stuck_runs] == ["tuned/mha,lr=0.001/seed-2"]
    assert waiting.describe() == (
        "nothing picked yet: waiting for 1 tuning run, such as tuned/mha,lr=0.001/seed-2 (failed: why not)"
    )
    again = stages(sweep(), retry_failed=True)
    assert run(again.next(), {"lr=0.001": 1.0}) == ["tuned/mha,lr=0.001/seed-2"]
    assert run(again.next(), BEST_2) == [f"tuned/mha,lr=0.001/seed-{seed}" for seed in (0, 1)]


def test_an_arm_whose_every_cell_diverged_has_no_reporting_runs(sweep: Sweep) -> None:
    found = stages(sweep())
    run(found.next(), {"mha": "diverged", **BEST_2})
    assert all("gqa" in name for name in run(found.next(), BEST_2))
    (hopeless,) = found.unpicked
    assert (hopeless.arm, hopeless.all_diverged, hopeless.stuck_runs) == ("mha", True, ())


def test_a_finished_run_without_the_metric_is_waited_for_and_named(sweep: Sweep) -> None:
    found = stages(sweep())
    run(found.next(), BEST_2)
    (folder,) = Path("runs").glob("tuned/mha,lr=0.001/seed-2")
    write_json(folder / "summary.json", {"status": "finished", "metrics": {}})
    found.next()
    (waiting,) = found.unpicked
    assert "tuned/mha,lr=0.001/seed-2 (finished without a val/loss)" in waiting.describe()


def test_a_pick_that_is_reported_stays_when_a_better_value_is_tried_later(sweep: Sweep) -> None:
    first = stages(sweep("tune: {axes: {optimizer.lr: [1e-3, 2e-3]}}\n"))
    run(first.next(), BEST_4)
    run(first.next(), BEST_4)
    later = stages(sweep())
    assert run(later.next(), BEST_4) == [f"tuned/{arm},lr=0.004/seed-2" for arm in ("gqa", "mha")]
    assert later.next() is None
    again = stages(sweep())
    assert again.next() is not None
    assert again.next() is None
    assert again.news() == [
        f"{arm}: lr=0.002 was picked before and is kept, as it has runs; the tuning runs now favour lr=0.004. "
        "`lab submit --reselect` picks again"
        for arm in ("gqa", "mha")
    ]
    assert selection.recorded_picks("runs", "tuned")["gqa"].cell == "lr=0.002"
    anew = stages(sweep(), reselect=True)
    assert run(anew.next(), BEST_4) == [f"tuned/{arm},lr=0.004/seed-{n}" for arm in ("gqa", "mha") for n in (0, 1)]
    assert selection.recorded_picks("runs", "tuned")["gqa"].cell == "lr=0.004"


def test_a_pick_that_nothing_reports_yet_follows_the_tuning_runs(sweep: Sweep) -> None:
    first = stages(sweep("tune: {axes: {optimizer.lr: [1e-3, 2e-3]}}\n"))
    run(first.next(), BEST_4)
    worst, loss = (
        selection.Cell("lr=0.001", {"optimizer.lr": 0.001}),
        selection.TuningRun("lr=0.001", 2, "finished", 3.2),
    )
    picked = selection.select_cell("gqa", [worst], [loss], "val/loss")
    selection.record_picks("runs", "tuned", {"gqa": picked})
    later = stages(sweep())
    run(later.next(), BEST_4)
    assert {name.split("/")[1] for name in run(later.next(), BEST_4)} == {"gqa,lr=0.004", "mha,lr=0.004"}


def test_more_reported_seeds_use_what_was_picked(sweep: Sweep) -> None:
    tune = "tune: {axes: {optimizer.lr: [1e-3, 2e-3]}, seeds: [9]}\n"
    first = stages(sweep(tune))
    run(first.next(), BEST_2)
    run(first.next(), BEST_2)
    more = stages(sweep(tune, seeds="3"))
    assert run(more.next(), BEST_2) == ["tuned/gqa,lr=0.002/seed-2", "tuned/mha,lr=0.002/seed-2"]


def test_a_pick_on_a_seed_that_is_reported_now_is_made_anew(sweep: Sweep) -> None:
    first = stages(sweep())
    run(first.next(), BEST_2)  # on seed 2
    run(first.next(), BEST_2)
    more = stages(sweep(seeds="3"))  # 2 is reported now, and 3 tunes
    assert run(more.next(), BEST_4) == [
        f"tuned/{arm},lr={lr}/seed-3" for arm in ("gqa", "mha") for lr in ("0.001", "0.002", "0.004")
    ]
    report = more.next()
    assert report is not None
    # Seed 2 of the cell was a tuning run, and is the very run that is reported now.
    assert run(report, BEST_4) == [f"tuned/{arm},lr=0.004/seed-{seed}" for arm in ("gqa", "mha") for seed in (0, 1)]
    assert len(report.finished) == 2
    assert "gqa: lr=0.002 was picked on seed 2, which is reported now: it is picked again, on seed 3" in more.news()


# Real runs.

TINY = {
    "train.tokens": "1k", "train.context": 32, "train.global_batch": 4, "validation.tokens": 256,
    "validation.every": "null", "schedule.warmup_tokens": 0, "model.d_model": 16, "model.n_layers": 2,
    "model.mlp.d_ff": 24, "model.heads.head_dim": 4, "train.accelerator": "cpu", "data.corpus.parts": "[prose]",
}  # fmt: skip


def lab(*arguments: str, cwd: Path) -> list[str]:
    return [sys.executable, "-m", "lab.cli.main", *arguments, "--root", str(cwd / "runs")]


def results(root: Path) -> dict[str, float]:
    return {run.name: summary.metrics["val/loss"] for run in find_runs(root) if (summary := run.summary)}


@pytest.mark.slow
def test_a_submit_killed_between_stages_and_repeated_gives_the_same_result(tmp_path: Path) -> None:
    overrides = "".join(f"  {key}: {value}\n" for key, value in TINY.items())
    for folder in ("whole", "killed"):
        (tmp_path / folder / "sweeps").mkdir(parents=True)
        (tmp_path / folder / "sweeps" / "mine.yaml").write_text(
            "question: Does it tune?\nexperiment: gemma2_tiny\nseeds: 2\narms: {one: {}, two: {model/heads: mha}}\n"
            f"tune: {{axes: {{optimizer.lr: [1e-5, 1e-2]}}}}\noverrides:\n{overrides}"
        )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(lab("submit", "mine", cwd=whole), cwd=whole, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mine: 4 new" in done.stdout
    assert "one: optimizer.lr = 0.01, picked on seed 2 of 2 values; at the edge: the largest" in done.stdout
    assert set(results(whole / "runs")) == {
        *[f"mine/{arm},lr={lr}/seed-2" for arm in ("one", "two") for lr in ("1e-05", "0.01")],
        *[f"mine/{arm},lr=0.01/seed-{seed}" for arm in ("one", "two") for seed in (0, 1)],
    }
    summary = next((whole / "runs").rglob("summary.json"))
    assert set(MEASURED) <= set(json.loads(summary.read_text())["metrics"])

    with open(tmp_path / "said.txt", "w") as said:
        process = subprocess.Popen(
            lab("submit", "mine", cwd=killed), cwd=killed, stdout=said, stderr=said, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while not list((killed / "runs").glob("mine/*/seed-0")) and time.monotonic() < deadline:
            time.sleep(0.02)  # the first folder of the second stage
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    again = subprocess.run(lab("submit", "mine", cwd=killed), cwd=killed, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert results(killed / "runs") == results(whole / "runs")
    picked = [selection.recorded_picks(each / "runs", "mine") for each in (whole, killed)]
    assert picked[0] == picked[1]
    last = subprocess.run(lab("submit", "mine", cwd=whole), cwd=whole, capture_output=True, text=True, check=False)
    assert last.stdout == "mine: nothing to do: 8 of 8 finished\n"
    table = subprocess.run(lab("compare", "mine", cwd=whole), cwd=whole, capture_output=True, text=True, check=False)
    assert "two: optimizer.lr = 0.01, picked on seed 2 of 2 values" in table.stdout

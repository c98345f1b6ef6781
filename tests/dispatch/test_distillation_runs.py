"""A sweep with a teacher, for real: the teacher is trained first, its students from it, each in a worker process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lab.dispatch.control.preparation.prepare import prepare
from lab.planning.plan.build import plan_sweep
from lab.planning.plan.model import PlannedRun
from lab.records import RunFolder, find_runs
from lab.training.checkpoints import verified
from tests.dispatch.launch import submit_local
from tests.dispatch.test_real_runs import TINY, timeless
from tests.training.tiny import newest_weights

SWEEP = """
question: Does a student learn?
experiment: gemma2_tiny
arms:
  taught: {recipe: distillation, recipe.temperature: 2.0, recipe.hard_label_weight: 0.25}
  big:    {model.d_model: 160}
needs: {taught: {recipe.teacher: big}}
overrides: {model.n_layers: 2, model.mlp.d_ff: 64}
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PlannedRun, ...]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": f"The square of {n} is {n * n}. " * 4}) for n in range(300)))
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(SWEEP)
    files = ("data/corpus=files", f"data.corpus.paths=[{text}]")
    return plan_sweep("mine", (*TINY, *files, "train.tokens=4k", "train.checkpoint_minutes=1e-6")).runs


@pytest.mark.slow
def test_a_student_killed_in_its_worker_learns_on_from_its_teacher(
    tmp_path: Path, plan: tuple[PlannedRun, ...]
) -> None:
    _, summary = submit_local(plan, tmp_path / "runs", max_parallel=2, threads=1)
    assert summary.outcomes == {"mine/big/seed-0": "finished", "mine/taught/seed-0": "finished"}
    student, teacher = find_runs(tmp_path / "runs")
    assert student.summary is not None
    assert teacher.summary is not None
    assert student.summary.extra["teacher"] == {
        "identity": teacher.identity,
        "run": "mine/big/seed-0",
        "parameters": plan[1].costs.parameters,
        "val/loss": teacher.summary.metrics["val/loss"],
        "data": teacher.summary.data_digest,
    }
    points = student.metrics()
    assert points[-2]["train/kl"] < points[0]["train/kl"]

    killed = prepare(plan, tmp_path / "again").order
    command = [sys.executable, "-m", "lab.dispatch.worker", "--threads", "1"]
    where = {"cwd": Path(__file__).parents[2], "env": os.environ}
    assert subprocess.run([*command, str(killed[1].path)], check=False, **where).returncode == 0  # type: ignore[call-overload]
    with subprocess.Popen([*command, str(killed[0].path)], **where) as worker:  # type: ignore[call-overload]
        while not (steps := steps_done(killed[0])) or steps < 5:
            assert worker.poll() is None
            time.sleep(0.01)
        worker.kill()
    assert 5 <= steps_done(killed[0]) < 32, "it must have been killed in the middle"
    submit_local(plan, tmp_path / "again", max_parallel=1, threads=1)
    assert killed[0].state.attempts == 2
    assert timeless(killed[0]) == timeless(student)
    expected, actual = newest_weights(student.path), newest_weights(killed[0].path)
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def steps_done(run: RunFolder) -> int:
    return max((verified.step_of(path) for path in verified.list_checkpoints(run.path)), default=0)

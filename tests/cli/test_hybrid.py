"""A model of attention and linear layers, named by its pattern alone, is a run like any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.dispatch.control.preparation.prepare import prepare
from lab.planning.plan.build import plan_train
from lab.records import RunFolder
from lab.training.checkpoints import verified
from tests.evaluation.conftest import TINY, files, write_text
from tests.training.tiny import newest_weights

pytestmark = pytest.mark.trains

HYBRID = (
    *TINY, "train.tokens=6k", "model.n_layers=4", "model.pattern=[local,local,nope,linear]", "model.span.window=8",
    "train.checkpoint_minutes=1e-6", "train.log_every=1",
)  # fmt: skip


def start(run: RunFolder, cache: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lab.dispatch.worker", str(run.path), "--threads", "1"]
    return subprocess.Popen(command, env=os.environ | {"LAB_CACHE": str(cache)})


def timeless(run: RunFolder) -> list[dict[str, Any]]:
    clocks = ("time", "train/tokens_per_second", "train/mfu")
    return [{key: value for key, value in point.items() if key not in clocks} for point in run.metrics()]


@pytest.mark.slow
def test_a_killed_hybrid_ends_as_one_that_was_not_bit_for_bit(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.jsonl", "{n} and {square} ")
    (planned,) = plan_train("gemma2_tiny", (*HYBRID, *files(text))).runs
    assert planned.record.costs["flops_per_token"] > 0
    assert planned.total_flops == planned.record.costs["flops_per_token"] * 6016
    assert planned.record.components["mixer/linear"] >= 1
    whole = prepare([planned], tmp_path / "whole").order[0]
    killed = prepare([planned], tmp_path / "killed").order[0]
    assert start(whole, tmp_path / "cache").wait(600) == 0

    worker = start(killed, tmp_path / "cache")
    deadline = time.monotonic() + 300
    while not any(verified.step_of(path) >= 5 for path in verified.list_checkpoints(killed.path)):
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    newest = verified.newest(killed.path)
    assert newest is not None
    assert 5 <= verified.step_of(newest) < 47
    assert killed.summary is None
    assert start(killed, tmp_path / "cache").wait(600) == 0

    ours, theirs = newest_weights(killed.path), newest_weights(whole.path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any("layers.3.mixer" in name for name in ours)
    assert timeless(killed) == timeless(whole)
    assert killed.config["model"]["kinds"]["linear"]["mixer"]["name"] == "linear"

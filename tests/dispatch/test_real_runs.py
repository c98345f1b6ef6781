"""The worker that ships trains frozen configurations, and a used process gives the results of a fresh one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.dispatch.launchers.local.scheduler import run_local
from lab.dispatch.launchers.local.worker_start import Nursery
from lab.records import RunFolder, find_runs, read_process_seconds
from tests.records.made import info, make_run

TINY = (
    "train.tokens=1k",
    "train.context=32",
    "train.global_batch=4",
    "train.accelerator=cpu",
    "validation.every=null",
    "validation.tokens=256",
    "schedule.warmup_tokens=128",
)


def timeless(run: RunFolder) -> list[dict[str, Any]]:
    """The curves without what two equal runs differ in."""
    clocks = ("time", "train/tokens_per_second", "train/mfu")
    return [{key: value for key, value in point.items() if key not in clocks} for point in run.metrics()]


@pytest.mark.slow
def test_a_run_in_a_used_process_is_the_run_in_a_fresh_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.planning.plan.build import plan_train

    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": f"The square of {n} is {n * n}. " * 4}) for n in range(300)))
    files = ("data/corpus=files", f"data.corpus.paths=[{text}]")
    plan = [plan_train("gemma2_tiny", (*TINY, *files, f"seed={seed}")).runs[0] for seed in (0, 1)]
    forked = [replace(run, sweep="forked") for run in plan]
    plan = [replace(plan[0], sweep="fresh"), replace(plan[1], sweep="other"), replace(plan[0], sweep="used")]
    root = tmp_path / "runs"
    # Not submitted: no sweep makes a run again that another one has made.
    runs = [make_run(root / run.folder_name, run.config_yaml, run.record) for run in plan]
    summary = run_local(runs, max_parallel=1, threads=1)
    assert list(summary.outcomes.values()) == ["finished"] * 3
    fresh, other, used = find_runs(root)
    assert {run.state.pid for run in (fresh, other, used)} == {fresh.state.pid}
    assert timeless(fresh) == timeless(used)
    assert timeless(fresh) != timeless(other)
    provenance = info(fresh)["provenance"]
    assert provenance["device"] == "cpu"
    assert provenance["threads"] == 1
    assert "earlier" not in provenance
    assert fresh.state.progress is not None
    assert fresh.state.progress.step == fresh.state.progress.steps == 8
    assert set(fresh.summary.cpu_seconds) >= {"training", "validation", "start-up/data"} if fresh.summary else False
    side_by_side = [make_run(root / run.folder_name, run.config_yaml, run.record) for run in forked]
    assert set(run_local(side_by_side, max_parallel=2, threads=1).outcomes.values()) == {"finished"}
    assert [timeless(run) for run in side_by_side] == [timeless(fresh), timeless(other)]
    assert len({run.state.pid for run in side_by_side}) == 2
    if Nursery.is_possible():
        processes = read_process_seconds(root / "forked")
        assert [record.process for record in processes] == ["nursery", "worker", "worker"]

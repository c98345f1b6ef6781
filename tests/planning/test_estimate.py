"""Time and memory of runs, from runs that were measured: the same workload, else the nearest, else unknown."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from lab.composition.compose import compose
from lab.planning.forecast.estimate import Speeds, at_tokens, estimate, estimates, validation_tokens
from lab.planning.forecast.history import FinishedRun, Hardware, finished_runs
from lab.planning.plan.workload import workload_of
from lab.records import RunRecord, Workload, write_json
from lab.training.experiment import Experiment
from tests.planning.plans import shipped
from tests.records.made import make_run

HERE = Hardware("cpu", "Xeon", 1, "2.13")


def measured(arm: str, speed: float, memory: float = 6e8, hardware: Hardware = HERE, **workload: Any) -> FinishedRun:
    run = shipped().arms[arm][0]
    return FinishedRun(
        sweep="s", arm=arm, seed=0, identity=run.identity, experiment="gemma2_tiny", baseline="gemma2", role="report",
        created="2026", tokens=run.tokens, metrics={}, hardware=hardware,
        workload=dataclasses.replace(run.workload, **workload), tokens_per_second=speed, memory_bytes=memory,
    )  # fmt: skip


def speed(arm: str, past: list[FinishedRun], hardware: Hardware = HERE) -> Any:
    return Speeds(past, hardware).of(shipped().arms[arm][0].workload)


def test_a_measured_workload_has_the_median_of_its_runs() -> None:
    found = speed("mha", [measured("mha", rate, memory) for rate, memory in ((3000, 5e8), (4000, 9e8), (90, 7e8))])
    assert (found.basis, found.runs, found.tokens_per_second, found.memory_bytes) == ("measured", 3, 3000, 7e8)
    assert found.describe() == "measured in 3 runs"


def test_an_unmeasured_one_is_scaled_by_its_flops_a_token() -> None:
    flops = {arm: runs[0].costs.flops_per_token for arm, runs in shipped().arms.items()}
    found = speed("global_only", [measured("mha", 4000), measured("mha", 4000)])
    assert (found.basis, found.runs) == ("scaled", 2)
    assert found.tokens_per_second == pytest.approx(4000 * flops["mha"] / flops["global_only"])
    assert found.describe() == "scaled from 2 runs"


def test_the_nearest_workloads_are_scaled_from_not_the_others() -> None:
    far = [measured("mha", 1.0, digest=f"far{n}", flops_per_token=1e3 * 10**n) for n in (0, 8, 9)]
    near = [measured("mha", 4000, digest=f"near{n}") for n in range(3)]
    flops = {arm: runs[0].costs.flops_per_token for arm, runs in shipped().arms.items()}
    assert speed("local_only", [*far, *near]).tokens_per_second == pytest.approx(
        4000 * flops["mha"] / flops["local_only"]
    )


def test_nothing_measured_is_unknown() -> None:
    found = speed("mha", [])
    assert (found.basis, found.tokens_per_second, found.memory_bytes) == ("unknown", None, None)
    assert estimate(shipped().runs[0], Speeds([], HERE)).seconds is None


@pytest.mark.parametrize("other", [{"cpu": "Epyc"}, {"device": "NVIDIA H100"}])
def test_another_machine_says_nothing_of_this_one(other: dict[str, str]) -> None:
    assert speed("mha", [measured("mha", 9, hardware=dataclasses.replace(HERE, **other))]).basis == "unknown"


def test_on_a_gpu_the_processor_beside_it_does_not_matter() -> None:
    h100 = Hardware("NVIDIA H100", "Xeon", 8, "2.13")
    found = speed("mha", [measured("mha", 9, hardware=Hardware("NVIDIA H100", "Epyc", 2, "2.13"))], h100)
    assert (found.basis, found.tokens_per_second, found.note) == ("measured", 9, "")


def test_another_precision_is_not_scaled_from() -> None:
    assert speed("gemma2", [measured("mha", 9, precision="bf16-mixed")]).basis == "unknown"


def test_runs_with_the_same_threads_and_torch_are_preferred() -> None:
    older = dataclasses.replace(HERE, torch="2.10")
    wider = dataclasses.replace(HERE, threads=4)
    past = [measured("mha", 3000), measured("mha", 5, hardware=older), measured("mha", 7, hardware=wider)]
    assert speed("mha", past).tokens_per_second == 3000
    assert speed("mha", past[1:]).tokens_per_second == 5
    assert speed("mha", past[1:]).describe() == "measured in 1 run (with another torch)"
    # Four threads are at best four times as fast as one, and one is at worst as fast as it was.
    assert speed("mha", past[2:]).tokens_per_second == 7 / 4
    assert "4 threads" in speed("mha", past[2:]).describe()
    assert speed("mha", [past[0]], wider).tokens_per_second == 3000


def test_memory_is_what_training_state_and_activations_take() -> None:
    arm = shipped().arms["gemma2"][0].workload

    def memory(parameters: int, work: int) -> float:
        return 16 * parameters + 4e8 + 3e-2 * arm.flops_per_token * work

    past = [
        measured("gemma2", 9, memory(p, w), digest=f"{w}", parameters=p, tokens_per_forward=w)
        for p, w in ((10_000, 64), (500_000, 512), (90_000, 1024))
    ]
    expected = memory(arm.parameters, arm.tokens_per_forward)
    assert speed("gemma2", past).memory_bytes == pytest.approx(expected)
    alone = speed("gemma2", past[:1]).memory_bytes
    assert alone > expected  # nothing tells what of it the libraries are: at least enough


def test_time_counts_training_and_a_third_for_each_token_validated_on() -> None:
    experiment = compose("gemma2_tiny", ["train.tokens=100k", "validation.every=20480", "validation.tokens=6000"])
    steps = -(-100_000 // 2048)
    assert validation_tokens(experiment.experiment) == 5 * 6000
    assert experiment.experiment.train.steps == steps
    at_end = compose("gemma2_tiny", ["train.tokens=100k", "validation.every=null", "validation.tokens=6000"])
    assert validation_tokens(at_end.experiment) == 6000
    run = shipped().arms["mha"][0]
    found = estimate(run, Speeds([measured("mha", 2000)], HERE))
    assert found.seconds == pytest.approx((run.tokens + validation_tokens(run.experiment) / 3) / 2000)
    assert found.parts.keys() == {"training", "validation"}
    assert found.left_out == ("start-up",)
    everything = estimates(shipped().runs, Speeds([measured("mha", 2000)], HERE))
    assert set(everything) == {run.identity for run in shipped().runs}
    assert everything[run.identity] == found


def workload(experiment: Experiment) -> Workload:
    return workload_of(experiment, 1, 2.0)


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("seed=3", True), ("train.tokens=99k", True), ("optimizer.lr=0.1", True), ("train.log_every=3", True),
        ("train.context=128", False), ("train.global_batch=4", False), ("train.micro_batch=2", False),
        ("train.precision=bf16-mixed", False), ("train.kernel=reference", False), ("model.mlp.d_ff=100", False),
        ("train.mask_documents=true", False),
    ],
)  # fmt: skip
def test_a_workload_is_what_a_steps_time_depends_on(override: str, same: bool) -> None:
    plain, changed = (workload(compose("gemma2_tiny", given).experiment) for given in ([], [override]))
    assert (plain == changed) is same


def test_a_run_remembers_its_workload(tmp_path: Path) -> None:
    run = shipped().runs[0]
    made(tmp_path, "quickstart/gemma2/seed-0", run.record, 0.5)
    (past,) = finished_runs(tmp_path)
    assert past.workload == run.workload
    assert (past.arm, past.seed, past.tokens, past.metrics) == ("gemma2", 0, 500, {"val/loss": 0.5})
    assert past.hardware == HERE
    assert Speeds([past], HERE).of(run.workload).tokens_per_second == 77.0
    assert at_tokens(run.experiment, 50_000).train.tokens == 50_000


def made(root: Path, name: str, record: RunRecord, loss: float, status: str = "finished") -> None:
    folder = make_run(root / name, "seed: 0\n", record)
    folder.add_provenance({"device": "cpu", "cpu": "Xeon", "threads": 1, "torch": "2.13"})
    costs = {"tokens": 500, "steps": 5, "seconds": 1.0, "tokens_per_second": 77.0, "peak_memory_bytes": 5}
    write_json(folder.path / "summary.json", {"status": status, "metrics": {"val/loss": loss}, "costs": costs})


def test_only_finished_runs_are_history_and_broken_ones_are_passed_over(tmp_path: Path) -> None:
    record = dataclasses.replace(shipped().runs[0].record, workload=None)
    for seed, status in enumerate(("finished", "diverged", "finished", "finished")):
        made(tmp_path, f"s/a/seed-{seed}", dataclasses.replace(record, seed=seed, identity=f"{seed:064x}"), 1.0, status)
    (tmp_path / "s/a/seed-2/summary.json").write_text("{")
    (tmp_path / "s/a/seed-3/run.json").write_text(json.dumps({"arm": "a"}))
    (past,) = finished_runs(tmp_path)
    assert (past.seed, past.workload) == (0, None)
    assert finished_runs(tmp_path / "nothing") == []


def test_two_thousand_runs_are_scanned_within_a_second(tmp_path: Path) -> None:
    info = json.dumps(shipped().runs[0].record.as_json())
    summary = json.dumps({"status": "finished", "metrics": {"val/loss": 1.0}, "costs": {"tokens": 500}})
    for arm in range(200):
        for seed in range(10):
            folder = tmp_path / "s" / f"arm{arm}" / f"seed-{seed}"
            folder.mkdir(parents=True)
            (folder / "run.json").write_text(info)
            (folder / "summary.json").write_text(summary)
    began = time.process_time()
    assert len(finished_runs(tmp_path)) == 2000
    assert time.process_time() - began < 1.0

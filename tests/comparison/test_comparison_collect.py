import json
from pathlib import Path

import pytest

from lab.comparison.read.collect import collect
from lab.records import RunFolder, State
from lab.refusals import RequestError
from tests.comparison.fake_runs import fake_run, fake_sweep


def write_plan(root: Path, runs: list[dict[str, object]]) -> None:
    (root / "softcap" / "plan.json").write_text(json.dumps({"runs": runs}))


def test_arms_come_in_the_sweeps_order_and_seeds_ascending(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"z_first": [3.0, 3.1], "a_second": [3.2, 3.3]})
    found = collect(tmp_path, "softcap")
    assert [(arm.name, list(arm.runs)) for arm in found.arms.values()] == [("z_first", [0, 1]), ("a_second", [0, 1])]
    assert found.arms["a_second"].values("val/loss") == {0: 3.2, 1: 3.3}
    assert found.question == "Does soft-capping still help once queries and keys are normed?"
    assert (found.baseline, found.metrics, found.match) == ("z_first", ("val/loss",), "params")
    assert found.axes == ("model/softcap",)


def test_what_a_configuration_costs_comes_from_the_run_and_what_a_run_measured_is_averaged(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0, 3.1]})
    arm = collect(tmp_path, "softcap").arms["both"]
    assert arm.costs == {"parameters": 1_234_567, "flops_per_token": 7.5e6, "kv_bytes_per_token": 2048}
    assert arm.mean_cost("tokens_per_second") == 34_500
    assert arm.mean_cost("never measured") is None


@pytest.mark.parametrize("status", ["diverged", "failed", "running", "preempted", "queued", "blocked", "lost"])
def test_a_run_that_did_not_finish_keeps_its_state_and_gives_no_value(tmp_path: Path, status: str) -> None:
    fake_run(tmp_path, seed=0, loss=3.0)
    fake_run(tmp_path, seed=1, loss=9.0, status=status)
    arm = collect(tmp_path, "softcap").arms["both"]
    assert arm.values("val/loss") == {0: 3.0}
    assert arm.statuses == {"finished": 1, status: 1}


def test_a_diverged_run_says_why(tmp_path: Path) -> None:
    fake_run(tmp_path, status="diverged")
    assert collect(tmp_path, "softcap").arms["both"].runs[0].reason == "loss is not finite"


def test_a_summary_decides_over_a_state_that_its_worker_could_not_write(tmp_path: Path) -> None:
    fake_run(tmp_path, loss=3.0).state = State(status="running", attempts=1)
    assert collect(tmp_path, "softcap").arms["both"].values("val/loss") == {0: 3.0}


def test_a_seed_that_other_arms_have_is_missing(tmp_path: Path) -> None:
    fake_run(tmp_path, "both", 0)
    fake_run(tmp_path, "both", 1)
    fake_run(tmp_path, "neither", 1, order=1)
    arm = collect(tmp_path, "softcap").arms["neither"]
    assert {seed: run.status for seed, run in arm.runs.items()} == {0: "missing", 1: "finished"}


def test_an_unmeasured_metric_is_no_value_and_a_nan_is_one(tmp_path: Path) -> None:
    fake_run(tmp_path, seed=0, results={"val/accuracy": None})
    fake_run(tmp_path, seed=1, results={"val/accuracy": float("nan")})
    assert list(collect(tmp_path, "softcap").arms["both"].values("val/accuracy")) == [1]


def test_of_two_runs_of_an_arm_and_seed_the_newest_counts_and_the_other_is_reported(tmp_path: Path) -> None:
    # The old one has its own folder name beside the new one's, as lab.records makes them.
    fake_run(tmp_path, loss=1.0, identity="a" * 16, created="2026-03-02T09:00:00+00:00")
    fake_run(tmp_path, loss=2.0, identity="b" * 16, created="2026-03-02T10:00:00+02:00")  # an hour before the other
    found = collect(tmp_path, "softcap")
    assert found.arms["both"].values("val/loss") == {0: 1.0}
    assert [run.identity for run in found.left_out] == ["b" * 16]


def test_of_two_runs_of_an_arm_and_seed_the_planned_one_counts(tmp_path: Path) -> None:
    fake_run(tmp_path, loss=1.0, identity="a" * 16, created="2026-03-01T00:00:00+00:00")
    fake_run(tmp_path, loss=2.0, identity="b" * 16, created="2026-03-02T00:00:00+00:00")
    write_plan(tmp_path, [{"identity": "a" * 16}])
    found = collect(tmp_path, "softcap")
    assert found.arms["both"].values("val/loss") == {0: 1.0}
    assert [run.identity for run in found.left_out] == ["b" * 16]


def test_a_planned_run_without_a_folder_is_missing(tmp_path: Path) -> None:
    fake_run(tmp_path, identity="a" * 16)
    absent = {"identity": "c" * 16, "arm": "neither", "seed": 0, "axes": {"model/softcap": "none"}, "parameters": 7}
    write_plan(tmp_path, [{"identity": "a" * 16, "arm": "both", "seed": 0}, absent])
    found = collect(tmp_path, "softcap")
    assert found.arms["neither"].statuses == {"missing": 1}
    assert found.arms["neither"].costs == {"parameters": 7}
    assert [run.identity for run in found.runs()] == ["a" * 16, "c" * 16]


def test_a_run_of_an_earlier_plan_is_not_mixed_in(tmp_path: Path) -> None:
    fake_run(tmp_path, seed=0, identity="a" * 16)
    fake_run(tmp_path, seed=1, identity="b" * 16)
    write_plan(tmp_path, [{"identity": "a" * 16, "arm": "both", "seed": 0}, {"identity": "d" * 16}])
    found = collect(tmp_path, "softcap")
    assert list(found.arms["both"].runs) == [0]
    assert [run.seed for run in found.left_out] == [1]


@pytest.mark.parametrize("content", ["{", "[]", '{"runs": 3}', '{"runs": [{"arm": "both"}]}'])
def test_a_plan_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    fake_run(tmp_path)
    (tmp_path / "softcap" / "plan.json").write_text(content)
    with pytest.raises(RequestError, match=r"softcap/plan\.json"):
        collect(tmp_path, "softcap")


def test_a_folder_that_cannot_be_read_is_reported_and_its_seed_missing(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0, 3.1], "neither": [3.2, 3.3]})
    (tmp_path / "softcap" / "neither" / "seed-1" / "summary.json").write_text("{")
    found = collect(tmp_path, "softcap")
    assert found.arms["neither"].statuses == {"finished": 1, "missing": 1}
    assert [path.name for path, _ in found.broken] == ["seed-1"]


def test_an_unknown_sweep_is_answered_with_the_nearest(tmp_path: Path) -> None:
    fake_run(tmp_path)
    with pytest.raises(RequestError, match="no run of sweep 'softcaps'; did you mean 'softcap'"):
        collect(tmp_path, "softcaps")
    with pytest.raises(RequestError, match="there are no runs in"):
        collect(tmp_path / "elsewhere", "softcap")


def test_collecting_writes_nothing(tmp_path: Path) -> None:
    run: RunFolder = fake_run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in sorted(run.path.rglob("*"))}
    collect(tmp_path, "softcap")
    assert {path: path.stat().st_mtime_ns for path in sorted(run.path.rglob("*"))} == before

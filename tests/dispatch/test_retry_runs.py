"""Each kind of failure has its own policy, and each refusal says what would lift it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import pytest

from lab.dispatch.control.cancel import cancel
from lab.dispatch.control.retry import Amended, release
from lab.dispatch.control.retry_policy import Changes, RetryDecision, decide
from lab.dispatch.launchers.local.launcher import LocalLauncher
from lab.dispatch.launchers.local.scheduler import run_local
from lab.dispatch.launchers.slurm.launcher import SlurmLauncher
from lab.dispatch.status import status
from lab.dispatch.worker.claim import Claim
from lab.records import Failure, RunFolder, State, Status
from tests.dispatch.fakes import FAKE_WORKER, results

Make = Callable[..., RunFolder]


def on_slurm(*options: str) -> Changes:
    return Changes(launcher=frozenset(options), remedies=SlurmLauncher.remedies)


def of_run(*settings: str) -> Changes:
    return Changes(frozenset(settings), remedies=SlurmLauncher.remedies)


NONE = on_slurm()


def verdict(run: RunFolder, *, changes: Changes = NONE, named: bool = False, failed: bool = False) -> RetryDecision:
    (found,) = decide({run: status.read_row(run)}, changes=changes, named=[run] if named else [], failed=failed)
    return found


@pytest.fixture
def stands(make: Make) -> Callable[..., RunFolder]:
    """stands(status, failure): a run that stands so."""

    def made(state: Status, failure: Failure | None = None, reason: str | None = "KeyError: 'n_heads'") -> RunFolder:
        run = make("caps/both/seed-0")
        run.state = State(status=state, failure=failure, reason=reason, attempts=1)
        return run

    return made


Stands = Callable[..., RunFolder]


@pytest.mark.parametrize(
    ("state", "failure"),
    [
        ("preempted", None),
        ("lost", "interrupted"),
        ("lost", "node_lost"),
        ("lost", "cancelled"),
        ("running", None),  # with nobody at it
        ("cancelled", None),
    ],
)
def test_what_says_nothing_about_the_run_is_always_tried_again(
    stands: Stands, state: Status, failure: Failure | None
) -> None:
    assert verdict(stands(state, failure)).retried


def test_out_of_memory_needs_a_changed_setting(stands: Stands) -> None:
    run = stands("failed", "out_of_memory", "MemoryError")
    refused = verdict(run, named=True, failed=True)
    assert not refused.retried
    assert "launcher.memory" in refused.reason
    for changes in (
        of_run("train.micro_batch"),
        on_slurm("memory"),
        on_slurm("sbatch"),
        Changes(launcher=frozenset({"max_parallel"}), remedies=LocalLauncher.remedies),
    ):
        assert verdict(run, changes=changes).retried
    for changes in (of_run("train.log_every"), on_slurm("time"), on_slurm("max_parallel")):
        assert not verdict(run, changes=changes).retried, "that gives it no more memory"


def test_a_smaller_micro_batch_is_proposed(stands: Stands) -> None:
    run = stands("failed", "out_of_memory")
    (run.path / "config.yaml").write_text("train: {global_batch: 12, micro_batch: 6}\n")
    assert "train.micro_batch=4 (it is 6)" in verdict(run).reason
    (run.path / "config.yaml").write_text("train: {global_batch: 12, micro_batch: null}\n")
    assert "train.micro_batch=6 (it is 12)" in verdict(run).reason
    (run.path / "config.yaml").write_text("train: {global_batch: 12, micro_batch: 1}\n")
    assert "train.micro_batch" not in verdict(run).reason


def test_a_time_limit_needs_a_checkpoint_of_that_attempt_or_more_time(stands: Stands) -> None:
    run = stands("failed", "time", "job 3 reached its time limit")
    refused = verdict(run, named=True)
    assert not refused.retried
    assert "launcher.time" in refused.reason
    assert "train.checkpoint_minutes" in refused.reason
    assert verdict(run, changes=on_slurm("time")).retried
    assert verdict(run, changes=of_run("train.checkpoint_minutes")).retried
    assert not verdict(run, changes=on_slurm("memory")).retried
    claim = Claim.take(run.path)
    assert claim is not None
    claim.release()
    (run.path / "checkpoints").mkdir()
    checkpoint = run.path / "checkpoints" / "step-000000040.ckpt"
    checkpoint.write_bytes(b"x")
    os.utime(checkpoint, (time.time() - 100,) * 2)
    assert not verdict(run).retried, "a checkpoint of an earlier attempt says that this one got nowhere"
    os.utime(checkpoint)
    assert verdict(run).retried
    assert "step 40" in verdict(run).reason


def test_a_full_disk_needs_room_for_two_checkpoints(stands: Stands, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stands("failed", "disk_full")
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "step-000000040.ckpt").write_bytes(b"x" * 1000)
    usage = type("Usage", (), {"free": 1999})
    monkeypatch.setattr("lab.dispatch.control.retry_policy.shutil.disk_usage", lambda path: usage)
    assert not verdict(run, named=True, failed=True).retried
    usage.free = 2000  # type: ignore[attr-defined]
    assert verdict(run).retried


def test_a_bug_is_tried_again_only_by_name_or_on_demand(stands: Stands) -> None:
    run = stands("failed", "bug")
    refused = verdict(run)
    assert not refused.retried
    assert "KeyError: 'n_heads'" in refused.reason
    assert "--failed" in refused.reason
    assert verdict(run, named=True).retried
    assert verdict(run, failed=True).retried
    assert "KeyError: 'n_heads'" in verdict(run, failed=True).reason


@pytest.mark.parametrize("state", ["diverged", "finished"])
def test_a_result_is_never_tried_again(stands: Stands, state: Status) -> None:
    found = verdict(stands(state), named=True, failed=True)
    assert not found.retried
    assert "result" in found.reason


def test_a_run_that_is_being_run_is_left_alone(stands: Stands) -> None:
    run = stands("running")
    assert Claim.take(run.path) is not None
    assert not verdict(run, named=True).retried
    assert release(run) is not None
    assert run.state.status == "running"


def test_a_released_run_continues_with_whichever_launcher_comes(make: Make) -> None:
    run = make("caps/both/seed-0", do="bug")
    run_local([run], threads=1, worker=FAKE_WORKER)
    assert (run.state.status, run.state.failure) == ("failed", "bug")
    assert release(run) is None
    assert (run.state.status, run.state.failure, run.state.attempts) == ("preempted", None, 1)
    assert "KeyError: 'n_heads'" in (run.state.reason or "")
    run_local([run], threads=1, worker=FAKE_WORKER)
    assert (run.state.status, run.state.attempts, results(run)) == ("finished", 2, 1)


def test_a_cancelled_run_continues_only_after_it_was_released(make: Make) -> None:
    run = make("caps/both/seed-0")
    cancel([run])
    run_local([run], threads=1, worker=FAKE_WORKER)
    assert results(run) == 0
    assert release(run) is None
    assert run.state == State(status="queued")
    run_local([run], threads=1, worker=FAKE_WORKER)
    assert results(run) == 1


def test_a_changed_setting_is_on_record(stands: Stands) -> None:
    run = stands("failed", "out_of_memory")
    release(run, Amended("train: {micro_batch: 2}\n", {"train.micro_batch": (None, 2)}))
    release(run, Amended("train: {micro_batch: 1}\n", {"train.micro_batch": (2, 1)}))
    assert run.config == {"train": {"micro_batch": 1}}
    entries = json.loads((run.path / "run.json").read_text())["provenance"]["changed_settings"]
    assert [(entry["before_attempt"], entry["fields"]) for entry in entries] == [
        (2, {"train.micro_batch": [None, 2]}),
        (2, {"train.micro_batch": [2, 1]}),
    ]

"""What the cluster would not take is message before anything is sent, with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.dispatch.launchers.slurm.check import limits, shared_filesystem
from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.client.cluster import Bounds, read_cluster
from lab.dispatch.launchers.slurm.client.units import gres, minutes
from lab.dispatch.launchers.slurm.send import sbatch, submission
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.refusals import RequestError
from tests.slurm.cluster import Cluster

REFUSED: list[tuple[Mapping[str, Any], int, str]] = [
    ({"partition": "mian"}, 1, "partition: there is no 'mian'; did you mean 'main'?"),
    ({"account": "smal"}, 1, "account: you have no account 'smal'; did you mean 'small'?"),
    ({"qos": "caped"}, 1, "qos: there is no 'caped'; did you mean 'capped'?"),
    ({"constraint": "cpu&gpus"}, 1, "constraint: no node of partition main has the feature 'gpus'"),
    ({"partition": "short", "time": 5}, 1, "time: 5 min is beyond the 1 min of partition short; launcher.time=1"),
    ({"qos": "capped", "time": 30}, 1, "time: 30 min is beyond the 10 min of qos capped; launcher.time=10"),
    ({"nodes": 5}, 1, "nodes: 5 are more than the 4 that a job may have in partition main"),
    ({"cpus_per_task": 5, "tasks_per_node": 2}, 1, "cpus_per_task: 10 cores a node are more than the 8 of any"),
    ({"memory": "63G"}, 1, "memory: 63G a node is more than the 64000M of any"),
    ({"gres": "gpu:3"}, 1, "gres: 3 gpu a node are more than the 2 of any"),
    ({"gpus_per_node": 3}, 1, "gpus_per_node: 3 gpu a node are more than the 2 of any"),
    ({"gres": "gpu:a100:1"}, 1, "gres: no node of partition main has 'gpu:a100'"),
    ({"sbatch": {"mail-typ": "x"}}, 1, "sbatch has no option 'mail-typ'; did you mean 'mail-type'?"),
    ({"account": "small", "runs_per_job": 2}, 6, "6 jobs on top of 0 of yours are more than the 5 that account small"),
    ({"qos": "capped", "time": 5}, 5, "5 jobs on top of 0 of yours are more than the 4 that qos capped"),
    ({}, 10_001, "more than its MaxJobCount of 10,000 (each array task counts); pack runs into fewer jobs"),
]  # fmt: skip


def refused(settings: Settings, jobs: int, root: Path) -> list[str]:
    return [refusal.text for refusal in limits.refusals(settings, jobs, root, read_cluster())]


@pytest.mark.parametrize(("settings", "jobs", "message"), REFUSED, ids=[message[:30] for _, _, message in REFUSED])
def test_each_limit_is_named_before_sending(
    cluster: Cluster, tmp_path: Path, settings: Mapping[str, Any], jobs: int, message: str
) -> None:
    messages = refused(Settings(**settings), jobs, tmp_path)
    assert any(message in text for text in messages), messages


def test_what_is_just_within_the_limits_is_not_refused(cluster: Cluster, tmp_path: Path) -> None:
    allowed: list[tuple[Mapping[str, Any], int]] = [
        ({}, 1000),
        ({"partition": "short", "time": 1, "signal_seconds": 20}, 1),
        ({"qos": "capped", "time": 10}, 4),
        ({"account": "small"}, 5),
        ({"nodes": 4, "cpus_per_task": 4, "tasks_per_node": 2, "memory": "62G", "gres": "gpu:2"}, 1),
        ({"constraint": "cpu", "gpus_per_node": 2}, 1),
        ({"sbatch": {"mail-type": "FAIL", "exclude": "n1"}}, 1),
    ]
    for settings, jobs in allowed:
        assert refused(Settings(**settings), jobs, tmp_path) == []
        assert sbatch.dry_run(Settings(**settings), jobs) is None


def test_queued_jobs_count_towards_the_limit(fragile_cluster: Cluster, tmp_path: Path) -> None:
    fragile_cluster.sbatch("--account=small", "--array=0-2", "--hold", "--output=/dev/null", "--wrap", "true")
    (message,) = refused(Settings(account="small", runs_per_job=2), 4, tmp_path)
    assert "4 jobs on top of 3 of yours are more than the 5 that account small" in message
    assert message.endswith("launcher.runs_per_job=4")  # in two jobs, which is what is left
    fragile_cluster.sbatch("--account=small", "--array=0-1", "--hold", "--output=/dev/null", "--wrap", "true")
    (message,) = refused(Settings(account="small"), 1, tmp_path)
    assert message.endswith("wait until some have ended")


def test_slurm_itself_has_the_last_word(cluster: Cluster) -> None:
    reason = sbatch.dry_run(Settings(sbatch={"licenses": "gold"}), 3)
    assert reason is not None
    assert "license" in reason
    assert cluster.squeue("--states=PENDING,RUNNING") == []


def test_without_accounting_the_rest_is_checked(fragile_cluster: Cluster, tmp_path: Path) -> None:
    fragile_cluster.stop_accounting()
    accounting = read_cluster().accounting
    assert accounting.accounts is None
    assert "sacctmgr" in accounting.problems[0] or "limits of accounts" in accounting.problems[0]
    assert refused(Settings(account="nobody"), 1, tmp_path) == []
    (message,) = refused(Settings(nodes=5), 1, tmp_path)
    assert "nodes: 5" in message


def test_a_controller_that_does_not_answer_is_named(fragile_cluster: Cluster, tmp_path: Path) -> None:
    fragile_cluster.stop_controller()
    with pytest.raises(RequestError, match=r"^SLURM's controller doesn't answer: .*scontrol ping"):
        submission.check(Settings(), 1, tmp_path)


def test_without_slurm_the_reason_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError) as refusal:
        submission.check(Settings(), 1, tmp_path)
    assert str(refusal.value) == "no SLURM here: sbatch isn't installed; log in where it is, or use --on local"


FAR = [("n1", "10.0.0.1"), ("n2", "10.0.0.2")]


def test_a_root_on_a_disk_of_this_machine_is_not_visible_on_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shared_filesystem, "mounts", lambda: [("/", "ext4"), (str(tmp_path), "tmpfs"), ("/shared", "nfs4")]
    )
    refusal = shared_filesystem.refusal(tmp_path / "runs", FAR)
    assert refusal is not None
    message = refusal.text
    assert f"(tmpfs at {tmp_path})" in message
    assert "--root" in message
    assert "launcher.root_is_shared=true" in message
    assert shared_filesystem.refusal(Path("/elsewhere"), FAR) is not None
    assert shared_filesystem.refusal(Path("/shared/me/runs"), FAR) is None
    assert shared_filesystem.refusal(tmp_path, [("n1", "127.0.0.1"), ("n2", "localhost")]) is None
    assert shared_filesystem.refusal(tmp_path, [("n1", "127.0.0.1"), *FAR]) is not None


def test_a_hidden_root_is_refused_unless_the_user_knows_better(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_filesystem, "is_here", lambda address: False)
    monkeypatch.setattr(shared_filesystem, "mounts", lambda: [("/", "ext4")])
    (message,) = refused(Settings(), 1, tmp_path)
    assert "is not visible on the nodes" in message
    assert refused(Settings(root_is_shared=True), 1, tmp_path) == []


def test_the_deepest_mount_counts() -> None:
    mounted = [("/", "ext4"), ("/data", "lustre"), ("/data/scratch", "xfs"), ("/dat", "nfs")]
    assert shared_filesystem.mount_of(Path("/data/scratch/me"), mounted) == ("/data/scratch", "xfs")
    assert shared_filesystem.mount_of(Path("/data/me"), mounted) == ("/data", "lustre")
    assert shared_filesystem.mount_of(Path("/database"), mounted) == ("/", "ext4")


def test_slurms_words_are_understood() -> None:
    assert gres("gpu:a100:4(S:0-1),gpu:v100:2,nvme:1") == {"gpu": 6, "gpu:a100": 4, "gpu:v100": 2, "nvme": 1}
    assert gres("(null)") == {}
    assert gres("gpu:a100:2", requested=True) == {"gpu:a100": 2}
    assert gres("gpu", requested=True) == {"gpu": 1}
    assert [minutes(text) for text in ("UNLIMITED", "00:01:00", "1-02:00:00", "2-00", "10:00")] == [
        None, 1, 1560, 2880, 10,
    ]  # fmt: skip
    assert commands.task_ids("12_[0-2,5%4]") == ["12_0", "12_1", "12_2", "12_5"]
    assert commands.task_ids("12_3") == ["12_3"]
    line = "JobId=1 JobName=a b Reason=Nodes required for job are DOWN Dependency=(null) TRES=cpu=1,mem=1G X:Y=3"
    assert commands.key_values(line) == {
        "JobId": "1", "JobName": "a b", "Reason": "Nodes required for job are DOWN", "Dependency": "(null)",
        "TRES": "cpu=1,mem=1G", "X:Y": "3",
    }  # fmt: skip


def test_the_suggested_packing_fits(cluster: Cluster, tmp_path: Path) -> None:
    present = read_cluster()
    for runs in (6, 11, 99, 100, 101):
        (message,) = (refusal.text for refusal in limits.refusals(Settings(account="small"), runs, tmp_path, present))
        suggested = re.search(r"runs_per_job=(\d+)", message)
        assert suggested is not None
        assert -(-runs // int(suggested[1])) <= 5
    assert present.accounting.accounts is not None
    assert present.accounting.accounts["small"] == Bounds(user_jobs=5)

"""The cluster that the other tests rely on is a real one, and its faults are real faults."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.packages import ClusterError
from tests.slurm.process import with_environment

# Writes "node attempt" when it starts and each signal as it comes, and goes on until it is killed.
STUBBORN = """
import os, signal, sys, time
def write(line):
    with open(sys.argv[1], "a") as file: file.write(line + "\\n")
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: write(signal.Signals(number).name))
write(os.environ["SLURMD_NODENAME"] + " " + os.environ.get("SLURM_RESTART_COUNT", "0"))
while True: time.sleep(0.1)
"""


class Stubborn:
    """A job that runs on one node until somebody kills it, and tells what happened to it."""

    def __init__(self, cluster: Cluster, folder: Path, *flags: str) -> None:
        script = folder / "stubborn.py"
        script.write_text(STUBBORN)
        self._told = folder / "told"
        self._told.touch()
        command = f"exec srun {sys.executable} {script} {self._told}"
        self.id = cluster.sbatch("--output=/dev/null", *flags, "--wrap", command)

    def told(self) -> list[str]:
        return self._told.read_text().splitlines()


def test_an_array_runs_and_is_accounted_for(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch(
        "--array=0-2", f"--output={tmp_path}/%a", "--wrap", "echo $SLURM_ARRAY_TASK_ID; exit $SLURM_ARRAY_TASK_ID"
    )
    assert cluster.wait_for_accounting(f"{job}_0", "COMPLETED")["NodeList"] in cluster.nodes
    assert cluster.wait_for_accounting(f"{job}_2", "FAILED")["ExitCode"] == "2:0"
    assert {row["JOBID"]: row["STATE"] for row in cluster.squeue("--jobs", job)} == {
        f"{job}_0": "COMPLETED", f"{job}_1": "FAILED", f"{job}_2": "FAILED",
    }  # fmt: skip
    assert (tmp_path / "1").read_text() == "1\n"


def test_a_step_runs_on_two_nodes(cluster: Cluster) -> None:
    command = ("sh", "-c", "echo $SLURM_PROCID $SLURMD_NODENAME")
    said = cluster.run("srun", "--nodelist=n1,n2", "--ntasks-per-node=2", *command).stdout.split("\n")
    assert sorted(said) == ["", "0 n1", "1 n1", "2 n2", "3 n2"]


def test_requests_that_break_a_limit_are_refused(cluster: Cluster) -> None:
    refused = {
        ("--partition=nowhere",): "invalid partition",
        ("--account=nobody",): "Invalid account",
        ("--qos=none",): "Invalid qos",
        ("--partition=short", "--time=5"): "time limit",
        ("--account=small", "--array=0-5"): "AssocMaxSubmitJobLimit",
        ("--qos=capped", "--time=5", "--array=0-4"): "QOSMaxSubmitJobPerUserLimit",
        ("--array=0-1001",): "Invalid job array",
        ("--gres=gpu:3",): "not available",
        ("--nodes=5",): "Node count",
    }
    for flags, reason in refused.items():
        done = cluster.run("sbatch", "--test-only", *flags, "--wrap", "true", check=False)
        assert done.returncode == 1, flags
        assert reason in done.stderr, flags


def test_other_limits_hold_for_a_while(fragile_cluster: Cluster) -> None:
    array = ("--test-only", "--array=0-3", "--wrap", "true")
    with fragile_cluster.configured(MaxArraySize="3"), pytest.raises(ClusterError, match="Invalid job array"):
        fragile_cluster.sbatch(*array)
    fragile_cluster.sbatch(*array)


def test_a_requeued_job_starts_again(cluster: Cluster, tmp_path: Path) -> None:
    told = tmp_path / "told"
    job = cluster.sbatch("--output=/dev/null", "--wrap", f"echo attempt $SLURM_RESTART_COUNT >> {told}; exec sleep 100")
    cluster.wait(told.exists, "start")
    cluster.run("scontrol", "requeue", job)
    cluster.wait_for(job, "PENDING")
    assert cluster.job(job)["Reason"] == "BeginTime"
    cluster.release(job)
    assert datetime.fromisoformat(cluster.job(job)["StartTime"]) <= datetime.now() + timedelta(seconds=2)
    cluster.wait(lambda: told.read_text().splitlines() == ["attempt", "attempt 1"], "second start")


def test_a_job_of_a_lost_node_runs_elsewhere(fragile_cluster: Cluster, tmp_path: Path) -> None:
    job = Stubborn(fragile_cluster, tmp_path)
    fragile_cluster.wait(lambda: job.told() == ["n1 0"], "start")
    assert with_environment(SLURM_CONF=str(fragile_cluster.conf), SLURM_JOB_ID=job.id)
    fragile_cluster.kill_node("n1")
    assert not with_environment(SLURM_CONF=str(fragile_cluster.conf), SLURM_JOB_ID=job.id)
    fragile_cluster.wait_for(job.id, "PENDING", seconds=40.0)
    fragile_cluster.release(job.id)
    fragile_cluster.wait(lambda: job.told() == ["n1 0", "n2 1"], "start elsewhere")
    fragile_cluster.start_node("n1")
    assert fragile_cluster.run("srun", "--nodelist=n1", "sh", "-c", "echo $SLURMD_NODENAME").stdout == "n1\n"


def test_a_job_outlives_the_controller(fragile_cluster: Cluster, tmp_path: Path) -> None:
    command = f"touch {tmp_path}/on; sleep 2; echo $SLURM_RESTART_COUNT done"
    job = fragile_cluster.sbatch(f"--output={tmp_path}/out", "--wrap", command)
    fragile_cluster.wait((tmp_path / "on").exists, "start")
    fragile_cluster.stop_controller()
    assert "DOWN" in fragile_cluster.run("scontrol", "ping", check=False).stdout
    fragile_cluster.start_controller()
    assert fragile_cluster.wait_for(job, "COMPLETED")["Restarts"] == "0"
    assert (tmp_path / "out").read_text() == "done\n"


def test_jobs_run_without_accounting_and_are_accounted_for_later(fragile_cluster: Cluster) -> None:
    fragile_cluster.stop_accounting()
    job = fragile_cluster.sbatch("--output=/dev/null", "--wrap", "true")
    fragile_cluster.wait_for(job, "COMPLETED")
    with pytest.raises(ClusterError, match="sacct"):
        fragile_cluster.sacct("-j", job)
    fragile_cluster.start_accounting()
    fragile_cluster.wait_for_accounting(job, "COMPLETED")


def test_a_preempted_job_is_warned_before_it_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    whole_node = ("--nodelist=n4", "--cpus-per-task=8")  # the last one to be filled: nobody else is there
    job = Stubborn(cluster, tmp_path, "--partition=scavenge", *whole_node)
    cluster.wait(lambda: job.told() == ["n4 0"], "start")
    other = cluster.sbatch("--output=/dev/null", *whole_node, "--wrap", "true")
    cluster.wait(lambda: job.told() == ["n4 0", "SIGTERM"], "warning")
    assert cluster.state(job.id) == "RUNNING"
    cluster.wait_for(other, "COMPLETED", seconds=45.0)
    assert cluster.state(job.id) == "PENDING"

    def attempts() -> list[str]:
        return [row["State"] for row in cluster.sacct("--duplicates", "--allocations", "--jobs", job.id)]

    cluster.wait(lambda: attempts() == ["PREEMPTED", "PENDING"], "record of the preemption")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one, as sockets need."""
    with tempfile.TemporaryDirectory(prefix="lab-slurm-") as path:
        yield Path(path)


def test_a_daemon_that_does_not_start_is_named_with_its_log(cluster: Cluster, folder: Path) -> None:
    ended = r"(?s)slurmctld ended (at once|while it started).*slurmctld.log.*select/nonsense"
    with pytest.raises(ClusterError, match=ended):
        Cluster.start(folder, options={"SelectType": "select/nonsense"})
    assert not with_environment(SLURM_CONF=f"{folder}/slurm.conf")


def test_a_cluster_ends_when_its_process_is_killed(cluster: Cluster, folder: Path) -> None:
    code = (
        f"from tests.slurm.cluster import *; Cluster.start(Path('{folder}'), nodes=1); print('up', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "up\n"
        assert with_environment(SLURM_CONF=f"{folder}/slurm.conf")
        starter.kill()
    cluster.wait(lambda: not with_environment(SLURM_CONF=f"{folder}/slurm.conf"), "end of it")

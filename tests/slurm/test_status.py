"""On a real cluster: what happens to runs is known and told apart, and can be acted on."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lab.cli.look import doctor_command
from lab.cli.runs import cancel_command, logs_command, retry_command, status_command
from lab.dispatch.launchers.slurm.send import submission
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.records import RunFolder, find_runs
from tests.dispatch.conftest import make, until  # noqa: F401  fixtures
from tests.dispatch.fakes import FAKE_WORKER, begun, results
from tests.slurm.cluster import Cluster
from tests.slurm.process import PATIENCE

Make = Callable[..., RunFolder]
Until = Callable[..., None]

FOR_EVER = 100_000


class Sweep:
    """Runs below a root, sent to the cluster with workers that only pretend to train."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def send(self, **settings: Any) -> list[str]:
        sent = submission.send(find_runs(self.root), self.root, "caps", Settings(**settings), worker=FAKE_WORKER)
        return [job for record in sent.records for job in record.jobs]

    def lab(self, command: Any, *arguments: str) -> Result:
        return CliRunner().invoke(command.command, [*arguments, "--root", str(self.root)])

    def rows(self) -> dict[str, dict[str, Any]]:
        shown = json.loads(self.lab(status_command, "caps", "--json").stdout)
        return {row["run"].rpartition("/")[2]: row for row in shown["runs"]}

    def wait(
        self, condition: Callable[[dict[str, Any]], object], seed: int = 0, seconds: float = PATIENCE
    ) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not condition(row := self.rows()[f"seed-{seed}"]):
            assert time.monotonic() < deadline, json.dumps(row)
            time.sleep(0.3)
        return row


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_a_waiting_run_shows_its_job_and_slurms_reason(sweep: Sweep, make: Make, cluster: Cluster) -> None:  # noqa: F811
    make("caps/both/seed-0")
    (job,) = sweep.send(sbatch={"hold": True})
    row = sweep.rows()["seed-0"]
    assert (row["status"], row["job"], row["job_state"], row["waits_for"]) == ("queued", job, "PENDING", "JobHeldUser")
    assert "JobHeldUser" in sweep.lab(status_command, "caps").stdout
    cluster.run("scontrol", "release", job)
    sweep.wait(lambda row: row["status"] == "finished")


@pytest.mark.usefixtures("cluster")
def test_a_running_run_shows_how_far_it_is_and_when_it_was_last_seen(sweep: Sweep, make: Make) -> None:  # noqa: F811
    make("caps/both/seed-0", steps=FOR_EVER)
    sweep.send()
    row = sweep.wait(lambda row: row["status"] == "running" and row["step"])
    assert row["tokens_per_second"] == 100.0
    assert row["eta"] > 0
    assert row["heartbeat_age"] < 10
    assert row["job_state"] == "RUNNING"
    assert "ago" in sweep.lab(status_command, "caps").stdout


@pytest.mark.usefixtures("cluster")
def test_cancelling_one_run_of_a_job_leaves_the_others(sweep: Sweep, make: Make, until: Until) -> None:  # noqa: F811
    first = make("caps/both/seed-0", steps=FOR_EVER)
    others = [make(f"caps/both/seed-{n}") for n in (1, 2, 3)]
    sweep.send(runs_per_job=4)
    sweep.wait(lambda row: row["status"] == "running" and row["step"])
    done = sweep.lab(cancel_command, first.name, others[2].name)
    assert "2 cancelled, 0 stopping" in done.stdout, done.stdout
    assert int((first.path / "step.txt").read_text()) > 0, "it has checkpointed"
    until(lambda: all(run.state.status == "finished" for run in others[:2]), 60.0)
    assert begun(others[2]) == 0
    rows = sweep.rows()
    assert [rows[f"seed-{n}"]["status"] for n in range(4)] == ["cancelled", "finished", "finished", "cancelled"]
    assert getpass.getuser() in rows["seed-0"]["reason"]


def test_cancelling_a_sweep_empties_the_queue(sweep: Sweep, make: Make, cluster: Cluster) -> None:  # noqa: F811
    for n in range(4):
        make(f"caps/both/seed-{n}", steps=FOR_EVER)
    sweep.send(array_parallelism=1)
    sweep.wait(lambda row: row["status"] == "running" and row["step"])
    shown = json.loads(sweep.lab(cancel_command, "caps", "--json").stdout)
    assert [each["did"] for each in shown["runs"]] == ["cancelled"] * 4
    cluster.wait(lambda: not cluster.squeue("--states=PENDING,RUNNING,COMPLETING"), "empty queue")
    again = sweep.lab(retry_command, "caps/both/seed-1", "--dry-run")
    assert "again: cancelled by" in again.stdout
    (run,) = [run for run in find_runs(sweep.root) if run.name.endswith("seed-1")]
    (run.path / "config.yaml").write_text(run.path.joinpath("config.yaml").read_text().replace(str(FOR_EVER), "3"))
    assert sweep.lab(retry_command, "caps/both/seed-1", "--on", "local", "--dry-run").exit_code == 0
    sent = sweep.lab(retry_command, "caps/both/seed-1", "launcher.root_is_shared=true", "launcher.qos=nonsense")
    assert sent.exception is not None, "what the cluster would refuse is refused before anything is changed"
    assert run.state.status == "cancelled"


@pytest.mark.parametrize("begun", [False, True])
def test_a_job_that_the_administrator_cancels_is_distinguished(
    sweep: Sweep,
    make: Make,  # noqa: F811
    cluster: Cluster,
    begun: bool,
) -> None:
    make("caps/both/seed-0", steps=FOR_EVER)
    (job,) = sweep.send(**({} if begun else {"sbatch": {"hold": True}}))
    if begun:
        sweep.wait(lambda row: row["status"] == "running" and row["step"])
    cluster.run("scancel", job)
    row = sweep.wait(lambda row: row["failure"] == "cancelled" and "by" in row["reason"])
    assert row["status"] == ("preempted" if begun else "lost")
    assert f"cancelled by {getpass.getuser()}" in row["reason"]
    assert sweep.lab(retry_command, "caps", "--dry-run").stdout.endswith("1 run would be tried again\n")


def test_a_time_limit_that_left_no_time_to_stop_is_distinguished(sweep: Sweep, make: Make, cluster: Cluster) -> None:  # noqa: F811
    run = make("caps/both/seed-0", steps=FOR_EVER, deaf=True)
    (job,) = sweep.send(requeue=False, signal_seconds=1)
    sweep.wait(lambda row: row["status"] == "running" and row["step"])
    cluster.end_in(job, 2)
    row = sweep.wait(lambda row: row["status"] == "failed")
    assert row["failure"] == "time"
    refused = sweep.lab(retry_command, "caps")
    assert refused.exit_code == 1
    assert "launcher.time" in refused.stdout
    from lab.dispatch.status.cluster_view import settle

    assert settle(sweep.root, "caps") == [run.name]
    assert run.state.failure == "time"


def test_a_lost_node_is_distinguished(sweep: Sweep, make: Make, fragile_cluster: Cluster) -> None:  # noqa: F811
    make("caps/both/seed-0", steps=FOR_EVER)
    sweep.send(requeue=False)
    row = sweep.wait(lambda row: row["status"] == "running" and row["step"])
    node = fragile_cluster.job(row["job"])["NodeList"]
    fragile_cluster.kill_node(node)
    row = sweep.wait(lambda row: row["failure"] == "node_lost")
    assert row["status"] == "lost"
    assert node in row["reason"]


def test_status_and_cancel_work_without_accounting(sweep: Sweep, make: Make, fragile_cluster: Cluster) -> None:  # noqa: F811
    make("caps/both/seed-0")
    make("caps/both/seed-1", steps=FOR_EVER)
    sweep.send(sbatch={"hold": True})
    fragile_cluster.stop_accounting()
    assert sweep.rows()["seed-0"]["waits_for"] == "JobHeldUser"
    assert "2 cancelled" in sweep.lab(cancel_command, "caps").stdout


def test_without_a_controller_the_folders_are_shown_and_a_line_reports_it(
    sweep: Sweep,
    make: Make,  # noqa: F811
    fragile_cluster: Cluster,
) -> None:
    make("caps/both/seed-0")
    sweep.send(sbatch={"hold": True})
    fragile_cluster.stop_controller()
    shown = sweep.lab(status_command, "caps")
    assert shown.exit_code == 0
    assert "queued" in shown.stdout
    assert sum(line.startswith("note: Slurm doesn't say") for line in shown.stdout.splitlines()) == 1


@pytest.mark.usefixtures("cluster")
def test_what_a_job_said_before_its_run_began_is_in_the_logs(sweep: Sweep, make: Make) -> None:  # noqa: F811
    make("caps/both/seed-0")
    sweep.send(setup=("echo no such module: cuda/99", "exit 7"))
    row = sweep.wait(lambda row: row["status"] == "lost" and "exit code" in row["reason"])
    assert "exit code 7" in row["reason"]
    shown = sweep.lab(logs_command, "caps/both/seed-0")
    assert "no such module: cuda/99" in shown.stdout


def test_following_a_log_continues_over_a_requeue_and_ends_with_the_run(
    sweep: Sweep,
    make: Make,  # noqa: F811
    cluster: Cluster,
) -> None:
    run = make("caps/both/seed-0", steps=600)
    (job,) = sweep.send()
    sweep.wait(lambda row: row["status"] == "running" and row["step"])
    cluster.run("scontrol", "requeue", job)
    cluster.wait_for(job, "PENDING")
    cluster.release(job)
    shown = sweep.lab(logs_command, run.name, "--follow")
    assert shown.exit_code == 0
    assert [line.split(" on ")[0] for line in shown.stdout.splitlines() if line.startswith("====")] == [
        "==== attempt 1",
        "==== attempt 2",
    ]
    assert results(run) == 1


@pytest.mark.usefixtures("cluster")
def test_the_doctor_knows_the_cluster(sweep: Sweep) -> None:
    shown = sweep.lab(doctor_command, "--on", "slurm", "--json")
    assert shown.exit_code == 0, shown.stdout
    facts = [finding["facts"] for finding in json.loads(shown.stdout)["findings"] if finding["area"] == "slurm"]
    assert {fact["name"]: fact["minutes"] for fact in facts if "minutes" in fact} == {
        "main": None,
        "short": 1,
        "scavenge": None,
    }
    assert any(fact.get("MaxArraySize") == 1001 for fact in facts)
    for setting, said in (
        ("launcher.partition=mian", "main"),
        ("launcher.account=nobody", "research"),
        ("launcher.qos=capped", "launcher.time=10"),
    ):
        refused = sweep.lab(doctor_command, "--on", "slurm", setting)
        assert refused.exit_code == 2
        assert said in refused.stdout


def test_the_doctor_says_that_the_controller_is_down(sweep: Sweep, fragile_cluster: Cluster) -> None:
    fragile_cluster.stop_controller()
    refused = sweep.lab(doctor_command, "--on", "slurm")
    assert refused.exit_code == 2
    assert "controller doesn't answer" in refused.stdout
    assert sweep.lab(doctor_command, "--on", "local").exit_code == 0

"""On a real cluster: a job that is stopped, killed or moved goes on where it was, and does nothing twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.dispatch.launchers.slurm.job.circuit_breaker import CircuitBreaker, failure_site
from lab.dispatch.launchers.slurm.send import journal, submission
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.records import RunFolder, find_runs
from tests.dispatch.conftest import make, until  # noqa: F401  fixtures
from tests.dispatch.fakes import FAKE_WORKER, begun, marks, results
from tests.slurm.cluster import Cluster

Make = Callable[..., RunFolder]
Until = Callable[..., None]

LONG = {"steps": 100, "pause": 0.05}


def sent(root: Path, **settings: Any) -> list[str]:
    """Send all runs below the root; the ids of their jobs."""
    done = submission.send(find_runs(root), root, "caps", Settings(**settings), worker=FAKE_WORKER)
    return [job for record in done.records for job in record.jobs]


def step(run: RunFolder) -> int:
    saved = run.path / "step.txt"
    return int(saved.read_text()) if saved.exists() else 0


def said(root: Path) -> str:
    return "".join(path.read_text() for path in root.glob("*/.slurm/*/*_log.out"))


def test_told_of_its_time_limit_a_job_checkpoints_and_continues_later(
    cluster: Cluster,
    make: Make,  # noqa: F811
    until: Until,  # noqa: F811
    tmp_path: Path,
) -> None:
    first, second = make("caps/both/seed-0", **LONG), make("caps/both/seed-1")
    (job,) = sent(tmp_path, runs_per_job=2)
    until(lambda: step(first) > 3)
    cluster.run("scancel", "--signal=USR2", job)
    cluster.wait(lambda: cluster.state(job) == "PENDING", "requeue")
    reached = step(first)
    assert (first.state.status, first.state.reason) == ("preempted", "stopped by the time limit of its job")
    assert second.state.status == "queued"
    cluster.release(job)
    cluster.wait(lambda: first.state.status == second.state.status == "finished", "end of the runs")
    assert 0 < reached < 100
    assert (results(first), begun(first), first.state.attempts) == (1, 2, 2)
    assert (results(second), begun(second)) == (1, 1)
    assert cluster.job(job)["Restarts"] == "1"


def test_the_true_time_limit_is_told_in_time(
    cluster: Cluster,
    make: Make,  # noqa: F811
    until: Until,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = make("caps/both/seed-0", steps=100_000, pause=0.05)
    (job,) = sent(tmp_path, time=1, signal_seconds=50)
    until(lambda: step(run) > 3)
    cluster.wait(lambda: cluster.state(job) == "PENDING", "requeue")
    assert (run.state.status, run.state.reason) == ("preempted", "stopped by the time limit of its job")


def test_a_preempted_job_continues_later(
    cluster: Cluster,
    make: Make,  # noqa: F811
    until: Until,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = make("caps/both/seed-0", **LONG)
    (job,) = sent(tmp_path, partition="scavenge", cpus_per_task=8, sbatch={"nodelist": "n3"})
    until(lambda: step(run) > 3)
    whole = ("--nodelist=n3", "--cpus-per-task=8", "--output=/dev/null")
    other = cluster.sbatch(*whole, "--wrap", "sleep 1")
    cluster.wait(lambda: run.state.status == "preempted", "preemption")
    assert "SIGTERM" in (run.state.reason or "")
    cluster.wait_for(other, "COMPLETED")
    cluster.wait_for(job, "PENDING", "RUNNING")
    cluster.release(job) if cluster.state(job) == "PENDING" else None
    cluster.wait(lambda: run.state.status == "finished", "end of the run")
    assert (results(run), begun(run)) == (1, 2)


def test_a_cancelled_job_stays_cancelled(
    cluster: Cluster,
    make: Make,  # noqa: F811
    until: Until,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = make("caps/both/seed-0", steps=100_000, pause=0.05)
    (job,) = sent(tmp_path)
    until(lambda: step(run) > 3)
    cluster.run("scancel", job)
    cluster.wait(lambda: run.state.status == "preempted", "checkpoint")
    cluster.wait_for(job, "CANCELLED")
    until(lambda: "cancelled" in (run.state.reason or ""))
    assert cluster.state(job) == "CANCELLED"
    assert len(sent(tmp_path)) == 1  # a repeated submission goes on with it
    cluster.wait(lambda: begun(run) == 2, "second beginning")


def test_without_requeueing_the_run_reports_it(
    cluster: Cluster,
    make: Make,  # noqa: F811
    until: Until,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = make("caps/both/seed-0", steps=100_000, pause=0.05)
    (job,) = sent(tmp_path, requeue=False)
    until(lambda: step(run) > 3)
    cluster.run("scancel", "--signal=USR2", job)
    cluster.wait_for(job, "FAILED")
    assert run.state.status == "preempted"
    assert "not put back into the queue: launcher.requeue is false" in (run.state.reason or "")


def test_a_killed_worker_is_replaced_in_the_same_job(
    cluster: Cluster,
    make: Make,  # noqa: F811
    until: Until,  # noqa: F811
    tmp_path: Path,
) -> None:
    run, other = make("caps/both/seed-0", **LONG), make("caps/both/seed-1")
    (job,) = sent(tmp_path, runs_per_job=2)
    until(lambda: step(run) > 3)
    os.kill(marks(run)[0][1], signal.SIGKILL)
    cluster.wait_for(job, "COMPLETED")
    assert (results(run), begun(run), results(other), begun(other)) == (1, 2, 1, 1)
    assert cluster.job(job)["Restarts"] == "0"


def test_a_lost_node_s_run_continues_elsewhere(
    fragile_cluster: Cluster,
    make: Make,  # noqa: F811
    until: Until,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = make("caps/both/seed-0", **LONG)
    (job,) = sent(tmp_path)
    until(lambda: step(run) > 3)
    node = fragile_cluster.job(job)["NodeList"]
    fragile_cluster.kill_node(node)
    fragile_cluster.wait_for(job, "PENDING")
    fragile_cluster.release(job)
    fragile_cluster.wait(lambda: run.state.status == "finished", "end of the run")
    assert (results(run), begun(run)) == (1, 2)
    assert fragile_cluster.job(job)["NodeList"] != node


def test_the_same_error_in_three_runs_stops_the_rest(
    cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    runs = [make(f"caps/both/seed-{n}", do="bug") for n in range(12)]
    jobs = sent(tmp_path, array_parallelism=1)
    assert len(jobs) == 12
    cluster.wait(lambda: sum(run.state.reason is not None for run in runs) == 12, "end of it")
    assert [run.state.status for run in runs].count("failed") == 3
    left = [run.state for run in runs if run.state.status == "queued"]
    assert len(left) == 9
    assert {state.attempts for state in left} == {0}
    assert "3 runs of this submission failed alike: KeyError" in (left[0].reason or "")
    assert "fake_worker.py:" in (left[0].reason or "")
    array = jobs[0].partition("_")[0]
    cluster.wait(lambda: not cluster.squeue("--jobs", array, "--states=PENDING,RUNNING,COMPLETING"), "end of the jobs")


def test_errors_in_different_places_are_different_errors(make: Make, tmp_path: Path) -> None:  # noqa: F811
    runs = [make(f"caps/both/seed-{n}") for n in range(3)]
    for run, line in zip(runs, (7, 7, 8), strict=True):
        run.state = run.state.replace(status="failed", failure="bug", reason="KeyError: 'n_heads'")
        (run.path / "log.txt").write_text(
            f"Traceback (most recent call last):\n  File \"a.py\", line {line}, in f\n    x[0]\nKeyError: 'n_heads'\n"
        )
    assert str(failure_site(runs[0])) == "KeyError at a.py:7"
    breaker = CircuitBreaker(tmp_path / "marks")
    assert breaker.record(runs[0], 2) is None
    assert breaker.record(runs[0], 2) is None  # the same run once more
    assert breaker.record(runs[2], 2) is None
    assert breaker.stopped() is None
    stopped = breaker.record(runs[1], 2)
    assert stopped is not None
    assert "KeyError at a.py:7" in stopped.cause
    assert breaker.stopped() == breaker.record(runs[1], 2) == stopped


def test_out_of_memory_in_one_arm_says_nothing_of_the_others(make: Make, tmp_path: Path) -> None:  # noqa: F811
    run = make("caps/both/seed-0")
    run.state = run.state.replace(status="failed", failure="out_of_memory", reason="OutOfMemoryError: CUDA")
    assert CircuitBreaker(tmp_path / "marks").record(run, 1) is None


def test_a_job_of_a_submission_that_was_given_up_does_nothing(
    cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = make("caps/both/seed-0")
    (job,) = sent(tmp_path, sbatch={"hold": True})
    (record,) = journal.records(tmp_path)
    journal.mark_void(record, "it was thought to be lost")
    cluster.run("scontrol", "release", job)
    cluster.wait_for(job, "COMPLETED")
    assert (run.state.status, begun(run)) == ("queued", 0)
    assert "nothing to do: it was thought to be lost" in said(tmp_path)


def test_a_job_that_was_queued_by_another_version_does_nothing_and_its_run_is_sent_again(
    cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Its pickle names a class that isn't there any more."""
    run = make("caps/both/seed-0")
    (job,) = sent(tmp_path, sbatch={"hold": True})
    (record,) = journal.records(tmp_path)
    (pickled,) = record.folder.glob("*_submitted.pkl")
    content = pickled.read_bytes()
    assert b"RunsJob" in content
    pickled.write_bytes(content.replace(b"RunsJob", b"GoneJob"))
    cluster.run("scontrol", "release", job)
    cluster.wait_for(job, "FAILED")
    assert (run.state.status, run.state.attempts, begun(run)) == ("queued", 0, 0)
    assert len(sent(tmp_path)) == 1
    cluster.wait(lambda: run.state.status == "finished", "end of the run")
    assert (results(run), begun(run)) == (1, 1)

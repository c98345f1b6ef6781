"""On a real cluster: what is sent is what is missing, packed and cut as asked for, however it is interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from lab.cli.main import cli
from lab.dispatch.launchers.slurm import view
from lab.dispatch.launchers.slurm.send import journal, sbatch, submission
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.records import RunFolder, find_runs
from lab.refusals import RequestError
from tests.dispatch.conftest import make, until  # noqa: F401  fixtures
from tests.dispatch.fakes import FAKE_WORKER, begun, marks, most_at_once, results
from tests.records.made import info
from tests.slurm.cluster import Cluster
from tests.slurm.killed import HELD, Moment, killed_once, raced

Make = Callable[..., RunFolder]


def send(root: Path, **settings: Any) -> submission.SentJobs:
    return submission.send(find_runs(root), root, "caps", Settings(**settings), worker=FAKE_WORKER)


def finish(cluster: Cluster, runs: list[RunFolder]) -> None:
    cluster.wait(lambda: all(run.state.ended for run in runs), "end of the runs")


def test_an_array_of_runs_is_sent_at_once_and_done_once(
    cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    runs = [make(f"caps/both/seed-{n}") for n in range(12)]
    sent = send(tmp_path)
    assert [len(record.tasks) for record in sent.records] == [12]
    assert not any(run.state.ended for run in runs)
    again = send(tmp_path)
    assert (again.records, len(again.queued_runs)) == ((), 12)
    finish(cluster, runs)
    assert [(begun(run), results(run)) for run in runs] == [(1, 1)] * 12
    assert send(tmp_path).describe() == "nothing to send"
    job = sent.records[0].job
    assert journal.jobs_of(tmp_path)["caps/both/seed-3"] == [f"{job}_3"]
    assert "1 of 1 runs to do" in view.output_files(tmp_path, f"{job}_3")[0].read_text()


def test_runs_of_a_job_are_done_in_turn_by_one_process(
    cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    runs = [make(f"caps/both/seed-{n}") for n in range(12)]
    (record,) = send(tmp_path, runs_per_job=5).records
    assert [len(task.runs) for task in record.tasks] == [5, 5, 2]
    finish(cluster, runs)
    for part in (runs[:5], runs[5:10], runs[10:]):
        assert len({pid for run in part for _, pid, _ in marks(run)}) == 1
        assert most_at_once(part) == 1


def test_runs_of_a_job_are_done_side_by_side(cluster: Cluster, make: Make, tmp_path: Path) -> None:  # noqa: F811
    runs = [make(f"caps/both/seed-{n}", steps=20, pause=0.05) for n in range(6)]
    send(tmp_path, runs_per_job=6, side_by_side=3, cpus_per_task=6)
    finish(cluster, runs)
    assert most_at_once(runs) == 3
    assert len({pid for run in runs for _, pid, _ in marks(run)}) == 3


def test_arrays_are_cut_to_what_the_cluster_allows(
    fragile_cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    for n in range(12):
        make(f"caps/both/seed-{n}")
    with fragile_cluster.configured(MaxArraySize="5"):
        sent = send(tmp_path, sbatch=HELD)
        assert [len(record.tasks) for record in sent.records] == [5, 5, 2]
        assert sorted(fragile_cluster.live()) == sorted(job for record in sent.records for job in record.jobs)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_submission_killed_halfway_is_repeated_without_loss_or_doubles(
    fragile_cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
    when: Moment,
) -> None:
    killed_once(fragile_cluster, make, tmp_path, when, per_array=2)


def test_of_two_submissions_at_once_one_sends_each_run(
    fragile_cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    raced(fragile_cluster, make, tmp_path, runs=20)


def test_a_sbatch_that_fails_sends_nothing_and_says_why(
    cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    make("caps/both/seed-0")
    with pytest.raises(RequestError, match=r"sbatch: .*Invalid partition"):
        send(tmp_path, partition="nowhere")
    (record,) = journal.records(tmp_path)
    assert record.job is None
    assert "Invalid partition" in (record.void or "")
    assert len(send(tmp_path, sbatch=HELD).records) == 1


def test_the_script_that_is_shown_is_the_one_that_submitit_sends(
    cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Fails when a submitit of another version makes its scripts otherwise than its private function says."""
    for n in range(2):
        make(f"caps/both/seed-{n}")
    settings = Settings(sbatch=HELD, setup=("module load x",), constraint="cpu")
    (record,) = submission.send(find_runs(tmp_path), tmp_path, "caps", settings, worker=FAKE_WORKER).records
    (script,) = record.folder.glob("*_submission.sh")
    assert sbatch.text(settings, record.name, record.folder, 2).split() == script.read_text().split()


def test_the_settings_win_over_variables_of_the_environment(
    cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make("caps/both/seed-0")
    monkeypatch.setenv("SBATCH_PARTITION", "short")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "77")  # as inside of a job
    (record,) = send(tmp_path, partition="main", time=7, sbatch=HELD).records
    assert record.job is not None
    job = cluster.job(record.job)
    assert (job["Partition"], job["TimeLimit"]) == ("main", "00:07:00")
    assert os.environ["SBATCH_PARTITION"] == "short"


def student(teacher: RunFolder) -> dict[str, str]:
    return {"path": "recipe.teacher", "identity": teacher.identity, "run": teacher.name}


def need(run: RunFolder, *others: RunFolder) -> RunFolder:
    """The run, needing the others."""
    from lab.records import write_json

    write_json(run.path / "run.json", {**info(run), "needs": [student(other) for other in others]})
    return run


def test_a_run_waits_for_the_job_of_the_run_that_it_needs(
    cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    first, second = make("caps/teacher/seed-0", steps=20), make("caps/teacher/seed-1", do="bug")
    good, bad = need(make("caps/student/seed-0"), first), need(make("caps/student/seed-1"), second)
    far = need(make("caps/pupil/seed-1"), bad)
    sent = send(tmp_path)
    assert [record.depends for record in sent.records] == [
        None,
        *(f"afterok:{sent.records[0].job}_{n}" for n in (0, 1)),
        f"afterok:{sent.records[2].job}",
    ]
    finish(cluster, [first, good])
    cluster.wait(lambda: far.state.status == "blocked", "blocked runs")
    assert marks(good)[0][2] > marks(first)[-1][2]
    assert (second.state.status, bad.state.status, begun(bad)) == ("failed", "blocked", 0)
    assert bad.state.reason == "needs caps/teacher/seed-1, which failed: KeyError: 'n_heads'"
    cluster.wait(lambda: not cluster.live(), "end of the jobs whose runs are blocked")


def test_a_run_that_shares_its_job_with_a_failing_one_does_not_block_others(
    cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    first, second = make("caps/teacher/seed-0"), make("caps/teacher/seed-1", do="bug")
    good = need(make("caps/student/seed-0"), first)
    sent = send(tmp_path, runs_per_job=2)
    assert [record.depends for record in sent.records] == [None, f"afterany:{sent.records[0].job}"]
    finish(cluster, [good])
    assert second.state.status == "failed"


def test_a_failed_run_is_tried_once_more_where_that_is_asked_for(
    cluster: Cluster,
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = make("caps/both/seed-0", do="bug")  # in the first attempt only
    send(tmp_path)
    cluster.wait(lambda: run.state.status == "failed" and not cluster.live(), "failure")
    send(tmp_path)
    finish(cluster, [run])
    assert (begun(run), run.state.attempts) == (2, 2)


# The command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a sweep of one arm and two seeds."""
    sweep = {
        "question": "Why?",
        "experiment": "gemma2_tiny",
        "seeds": 2,
        "arms": {"a": {}},
        "overrides": {"train.tokens": 512, "train.context": 32, "train.global_batch": 4, "schedule.warmup_tokens": 0},
    }
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(yaml.safe_dump(sweep))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submit(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["submit", "mine", "--on", "slurm", *arguments])


def test_the_command_sends_returns_and_repeats_nothing(cluster: Cluster, folder: Path) -> None:
    first = submit("launcher.sbatch.hold=true")
    assert first.exit_code == 0, first.output
    assert "mine: 2 new" in first.output
    assert "SLURM: 2 runs in 2 jobs (array " in first.output
    assert len(cluster.live()) == 2
    again = submit("launcher.sbatch.hold=true")
    assert (again.exit_code, len(cluster.live())) == (0, 2)
    assert "SLURM: 2 runs in the queue already" in again.output


def test_what_would_be_sent_is_shown_and_nothing_made(cluster: Cluster, folder: Path) -> None:
    shown = submit("--show-sbatch", "launcher.partition=main", "launcher.time=1-0", "launcher.setup=[module load x]")
    assert shown.exit_code == 0, shown.output
    for line in ("--partition=main", "--time=1440", "--array=0-1%2", "--signal=USR2@120"):
        assert f"#SBATCH {line}\n" in shown.output
    assert "\nmodule load x\n" in shown.output
    assert not (folder / "runs").exists()
    assert cluster.live() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launcher.partition=mian"], "partition: there is no 'mian'; did you mean 'main'?"),
        (["launcher.sbatch.licenses=x"], "SLURM would not accept these jobs: .*license"),
        (["launcher.nope=1"], "override 'launcher.nope=1': nope: there is no such setting"),
        (["--launcher", "slrm"], "no launcher is called 'slrm'; did you mean 'slurm'?"),
        (["--threads", "2"], "launcher.cpus_per_task"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_nothing_made(
    cluster: Cluster, folder: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        CliRunner().invoke(cli, ["submit", "mine", "--on", "slurm", *arguments], catch_exceptions=False)
    assert not (folder / "runs").exists()


def test_waiting_ends_with_the_runs(cluster: Cluster, folder: Path) -> None:
    done = submit("launcher.runs_per_job=2", "--wait")
    assert done.exit_code == 0, done.output
    assert [run.state.status for run in find_runs(folder / "runs")] == ["finished"] * 2


@pytest.mark.parametrize("nodes_may_send", [True, False])
def test_a_sweep_that_tunes_continues_by_itself(cluster: Cluster, folder: Path, nodes_may_send: bool) -> None:
    """Its reporting runs are sent by a job; where nodes may not send any, that job does them."""
    path = folder / "sweeps" / "mine.yaml"
    sweep = yaml.safe_load(path.read_text()) | {"seeds": [0], "tune": {"optimizer.lr": [0.001, 0.002]}}
    path.write_text(yaml.safe_dump(sweep))
    if not nodes_may_send:
        (folder / "bin").mkdir()
        (folder / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: not from here' >&2; exit 1\n")
        (folder / "bin" / "sbatch").chmod(0o755)
        (folder / "launchers").mkdir()
        (folder / "launchers" / "slurm.yaml").write_text(f"setup: ['export PATH={folder}/bin:$PATH']\n")
    done = submit("--wait", "launcher.runs_per_job=2")
    assert done.exit_code == 0, done.output
    assert "sends the reporting runs of what each arm picks" in done.output
    found = find_runs(folder / "runs")
    roles = [run.record.role for run in found if run.state.status == "finished"]
    assert sorted(roles) == ["report", "tune", "tune"]
    assert {run.state.attempts for run in found} == {1}
    (reported,) = [run.name for run in found if run.record.role == "report"]
    by = {record.job for record in journal.records(folder / "runs") for task in record.tasks if reported in task.runs}
    following = {record.job for record in journal.records(folder / "runs") if record.kind == "next"}
    assert (by - {None} == following) is not nodes_may_send
    assert "nothing to do" in submit().output

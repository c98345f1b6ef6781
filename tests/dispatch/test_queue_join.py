"""Slurm's word is joined to the folders' where it knows more, and to nothing else."""

from __future__ import annotations

import dataclasses
import getpass
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.dispatch.launchers.slurm import view as queue
from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.client.commands import AccountingRow, QueueRow, Reply
from lab.dispatch.launchers.slurm.send import journal
from lab.dispatch.launchers.slurm.view import job_view
from lab.dispatch.status import status
from lab.dispatch.status.cluster_view import join, look, settle_rows
from lab.dispatch.status.status import StatusRow
from lab.dispatch.worker.claim import Claim
from lab.records import RunFolder, State, SubmittedTask
from lab.refusals import RequestError
from tests.dispatch.fakes import read_rows

Make = Callable[..., RunFolder]


def queued(job: str, state: str, reason: str = "", nodes: str = "") -> QueueRow:
    return QueueRow(job, state, reason, nodes, "research", "normal", "me", "lab-caps-x")


def accounted(job: str, state: str, **more: Any) -> AccountingRow:
    fields: dict[str, Any] = {
        "cancelled_by": None,
        "exit_code": "0:0",
        "nodes": "n1",
        "end_time": "Unknown",
        "name": "x",
    }
    return AccountingRow(job, state, **{**fields, **more})


@pytest.fixture
def row(make: Make) -> Callable[..., StatusRow]:
    """row(status, …): of a run that stands so and that nobody holds."""

    def made(state: str, **more: Any) -> StatusRow:
        run = make("caps/both/seed-0")
        run.state = State(status=state, **more)  # type: ignore[arg-type]
        return status.read_row(run)

    return made


Rows = Callable[..., StatusRow]


def test_a_waiting_run_says_why(row: Rows) -> None:
    found = join(row("queued"), job_view("12_3", "PENDING", reason="QOSMaxJobsPerUserLimit"))
    assert (found.status, found.job, found.job_state) == ("queued", "12_3", "PENDING")
    assert found.waits_for == "QOSMaxJobsPerUserLimit"
    assert found.open


def test_a_run_whose_job_is_at_others_waits_for_its_turn(row: Rows) -> None:
    assert join(row("queued"), job_view("12", "RUNNING", nodes="n2")).waits_for == "its turn on n2"


@pytest.mark.parametrize(
    ("state", "status", "failure"),
    [
        ("OUT_OF_MEMORY", "failed", "out_of_memory"),
        ("TIMEOUT", "failed", "time"),
        ("DEADLINE", "failed", "time"),
        ("NODE_FAIL", "lost", "node_lost"),
        ("BOOT_FAIL", "lost", "node_lost"),
        ("CANCELLED", "lost", "cancelled"),
        ("FAILED", "lost", "interrupted"),
        ("SOMETHING_NEW", "lost", "interrupted"),
    ],
)
def test_how_a_job_ended_tells_what_became_of_a_run_that_fell_silent(
    row: Rows, state: str, status: str, failure: str
) -> None:
    found = join(row("running", attempts=1), job_view("12", state, exit_code="1:0"))
    assert (found.status, found.failure) == (status, failure)
    assert "12" in (found.reason or "")
    assert not found.open


def test_who_cancelled_and_which_node_was_lost_is_reported(row: Rows) -> None:
    assert "by root" in (join(row("running"), job_view("12", "CANCELLED", cancelled_by="root")).reason or "")
    assert "n3" in (join(row("running"), job_view("12", "NODE_FAIL", nodes="n3")).reason or "")
    assert "signal 9" in (join(row("running"), job_view("12", "FAILED", exit_code="0:9")).reason or "")
    assert "exit code 7" in (join(row("running"), job_view("12", "FAILED", exit_code="7:0")).reason or "")


@pytest.mark.parametrize("state", ["OUT_OF_MEMORY", "TIMEOUT"])
def test_what_became_of_a_job_before_a_run_began_is_not_the_runs_doing(row: Rows, state: str) -> None:
    found = join(row("queued"), job_view("12", state))
    assert (found.status, found.failure) == ("lost", "interrupted")
    assert "before the run began" in (found.reason or "")


def test_a_lost_run_whose_job_is_in_the_queue_again_continues(row: Rows) -> None:
    found = join(row("running", attempts=1), job_view("12", "PENDING", reason="BeginTime"))
    assert (found.status, found.waits_for, found.open) == ("preempted", "BeginTime", True)


def test_a_preempted_run_whose_job_has_ended_waits_for_nothing(row: Rows) -> None:
    found = join(row("preempted", reason="stopped by SIGTERM"), job_view("12", "CANCELLED", cancelled_by="root"))
    assert (found.status, found.open) == ("preempted", False)
    assert (found.reason or "").startswith("stopped by SIGTERM; job 12 was cancelled by root")


@pytest.mark.parametrize("state", ["finished", "diverged", "failed", "cancelled", "blocked"])
def test_what_the_folder_knows_for_sure_stands(row: Rows, state: str) -> None:
    before = row(state, reason="as it was")
    found = join(before, job_view("12", "NODE_FAIL"))
    assert found == dataclasses.replace(before, job="12", job_state="NODE_FAIL")


def test_a_run_that_somebody_is_at_stands_whatever_became_of_an_old_job(make: Make) -> None:
    run = make("caps/both/seed-0")
    assert Claim.take(run.path) is not None
    run.state = State(status="running", attempts=2, heartbeat=time.time())
    assert join(status.read_row(run), job_view("12", "NODE_FAIL")).status == "running"


def test_a_job_that_ended_long_before_the_last_sign_of_life_says_nothing(row: Rows) -> None:
    now = time.time()
    kept = row("running", attempts=2, heartbeat=now - 10)
    assert join(kept, job_view("12", "TIMEOUT", end_time=now - 1000)).status == "lost"
    assert join(kept, job_view("12", "TIMEOUT", end_time=now - 5)).status == "failed"


class Slurm:
    """Stands for squeue and sacct."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue: Reply[list[QueueRow]] = Reply([])
        self.accounting: Reply[list[AccountingRow]] = Reply([])
        self.asked: list[tuple[str, list[str]]] = []
        monkeypatch.setattr(commands, "squeue", self.squeue)
        monkeypatch.setattr(commands, "sacct", self.sacct)

    def squeue(self, *, jobs: list[str]) -> Reply[list[QueueRow]]:
        self.asked.append(("squeue", jobs))
        return self.queue

    def sacct(self, *, jobs: list[str]) -> Reply[list[AccountingRow]]:
        self.asked.append(("sacct", jobs))
        return self.accounting


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Slurm:
    return Slurm(monkeypatch)


def send(root: Path, job: str, *tasks: tuple[RunFolder, ...]) -> None:
    made = [SubmittedTask(tuple(run.name for run in runs)) for runs in tasks]
    journal.mark_sent(journal.add(root, "caps", "g", made, {}), job)


def joined(root: Path) -> tuple[dict[str, StatusRow], tuple[str, ...]]:
    rows = read_rows(root)
    view = look(root, rows)
    return {row.run.rpartition("/")[2]: row for row in view.join(rows)}, view.notes


def test_slurm_is_asked_only_about_runs_of_which_it_may_know_more(make: Make, tmp_path: Path, slurm: Slurm) -> None:
    done, waits = make("caps/both/seed-0"), make("caps/both/seed-1")
    done.state = State(status="finished")
    send(tmp_path, "7", (done,))
    assert joined(tmp_path)[0]["seed-0"].job == "7"
    assert slurm.asked == []
    send(tmp_path, "8", (waits,), (done,))
    slurm.queue = Reply([queued("8_0", "PENDING", "Priority")])
    assert joined(tmp_path)[0]["seed-1"].waits_for == "Priority"
    assert slurm.asked == [("squeue", ["8"])]


def test_a_root_that_never_saw_slurm_costs_no_question(make: Make, tmp_path: Path, slurm: Slurm) -> None:
    make("caps/both/seed-0")
    assert look(tmp_path, read_rows(tmp_path)).jobs == ()
    assert slurm.asked == []


def test_the_newest_living_job_counts(make: Make, tmp_path: Path, slurm: Slurm) -> None:
    run = make("caps/both/seed-0")
    for job in ("7", "8", "9"):
        send(tmp_path, job, (run,))
    slurm.queue = Reply([queued("7", "CANCELLED"), queued("8", "PENDING", "Resources"), queued("9", "FAILED")])
    assert joined(tmp_path)[0]["seed-0"].job == "8"


def test_accounting_tells_of_jobs_that_the_controller_has_forgotten(make: Make, tmp_path: Path, slurm: Slurm) -> None:
    run = make("caps/both/seed-0")
    run.state = State(status="running", attempts=1)
    send(tmp_path, "7", (run,))
    slurm.accounting = Reply([accounted("7", "CANCELLED", cancelled_by=str(os.getuid()))])
    found = joined(tmp_path)[0]["seed-0"]
    assert (found.failure, found.job_state) == ("cancelled", "CANCELLED")
    assert f"by {getpass.getuser()}" in (found.reason or "")


def test_an_accounting_that_is_late_does_not_revive_a_job(make: Make, tmp_path: Path, slurm: Slurm) -> None:
    run = make("caps/both/seed-0")
    run.state = State(status="running", attempts=1)
    send(tmp_path, "7", (run,))
    slurm.queue = Reply([queued("7", "TIMEOUT")])
    slurm.accounting = Reply([accounted("7", "RUNNING")])
    assert joined(tmp_path)[0]["seed-0"].failure == "time"


def test_without_an_answer_the_folders_state_is_shown_with_a_note(make: Make, tmp_path: Path, slurm: Slurm) -> None:
    run = make("caps/both/seed-0")
    send(tmp_path, "7", (run,))
    slurm.queue = Reply(reason="slurm_load_jobs error: Unable to contact slurm controller")
    slurm.accounting = Reply(reason="sacct: error: Connection refused")
    rows, notes = joined(tmp_path)
    assert (rows["seed-0"].status, rows["seed-0"].job, rows["seed-0"].job_state) == ("queued", "7", None)
    assert len(notes) == 2
    assert "Unable to contact" in notes[0]
    assert "Connection refused" in notes[1]


def test_only_what_was_the_runs_own_doing_is_written_into_its_folder(make: Make, tmp_path: Path, slurm: Slurm) -> None:
    starved, late, cut = (make(f"caps/both/seed-{n}") for n in range(3))
    for run in (starved, late, cut):
        run.state = State(status="running", attempts=1)
    send(tmp_path, "7", (starved,), (late,), (cut,))
    slurm.queue = Reply([queued("7_0", "OUT_OF_MEMORY"), queued("7_1", "TIMEOUT"), queued("7_2", "NODE_FAIL")])
    rows, _ = joined(tmp_path)
    assert settle_rows(list(rows.values()), tmp_path) == [starved.name, late.name]
    assert (starved.state.status, starved.state.failure) == ("failed", "out_of_memory")
    assert (late.state.status, late.state.failure) == ("failed", "time")
    assert cut.state.status == "running", "it will be gone on with"


def test_the_output_of_a_job_is_found(make: Make, tmp_path: Path) -> None:
    run = make("caps/both/seed-0")
    send(tmp_path, "7", (run,), (run,))
    (record,) = journal.records(tmp_path)
    record.folder.mkdir()
    for name in ("7_1_0_log.out", "7_1_0_log.err", "7_10_0_log.out", "7_1_submitted.pkl"):
        (record.folder / name).write_text("x")
    assert [path.name for path in queue.output_files(tmp_path, "7_1")] == ["7_1_0_log.out", "7_1_0_log.err"]


def test_a_record_that_cannot_be_read_is_refused_with_file_key_and_what_to_do(make: Make, tmp_path: Path) -> None:
    send(tmp_path, "7", (make("caps/both/seed-0"),))
    (record,) = journal.records(tmp_path)
    record.path.write_text(record.path.read_text().replace('"kind": "runs"', '"kind": "walks"'))
    with pytest.raises(RequestError) as caught:
        journal.records(tmp_path)
    where, fix = caught.value.where, caught.value.refusal.fix
    assert (where.file, where.key) == (str(record.path), "kind")
    assert fix == "once `squeue --me` shows no job of this sweep, delete the file"


@pytest.mark.parametrize(
    "change", [('"version": 1,', ""), ('"retry": {}', '"again": {}'), ('"version"', '"wish": 1, "version"')]
)
def test_a_record_of_another_shape_is_refused(make: Make, tmp_path: Path, change: tuple[str, str]) -> None:
    send(tmp_path, "7", (make("caps/both/seed-0"),))
    (record,) = journal.records(tmp_path)
    text = record.path.read_text()
    record.path.write_text(text.replace(*change))
    assert record.path.read_text() != text
    with pytest.raises(RequestError):
        journal.records(tmp_path)

"""Cancelling ends the runs that were asked for, after a checkpoint, and no others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.dispatch.control.cancel import CancelOutcome, cancel, request, requested
from lab.dispatch.launchers.local.scheduler import run_local
from lab.dispatch.worker.claim import Claim
from lab.records import RunFolder, State
from tests.dispatch.fakes import FAKE_WORKER, begun, marks, results

Make = Callable[..., RunFolder]
Until = Callable[..., None]


@contextmanager
def launcher(root: Path, parallel: int = 1) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.dispatch.launch", str(root), str(parallel)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_a_run_that_waits_is_never_begun(make: Make) -> None:
    first, second = make("caps/both/seed-0"), make("caps/both/seed-1")
    done, _ = cancel([first])
    assert done == [CancelOutcome("caps/both/seed-0", "cancelled", "was queued")]
    assert first.state.status == "cancelled"
    assert (first.state.reason or "").startswith("cancelled by ")
    summary = run_local([first, second], threads=1, worker=FAKE_WORKER)
    assert summary.skipped_runs == {first.name: "cancelled"}
    assert (begun(first), results(second)) == (0, 1)


@pytest.mark.slow
def test_a_running_run_checkpoints_and_the_next_one_continues(make: Make, tmp_path: Path, until: Until) -> None:
    long, other = make("caps/both/seed-0", steps=3000), make("caps/both/seed-1")
    with launcher(tmp_path) as process:
        until(lambda: (long.path / "step.txt").exists())
        waited: list[int] = []
        done, _ = cancel([long], patience=30, on_wait=waited.append)
        assert waited == [1]
        assert (done[0].action, done[0].message.split(" of ")[0].split(" step ")[0]) == ("cancelled", "stopped at")
        assert process.wait(timeout=300) == 0
    assert long.state.status == "cancelled"
    assert long.state.progress is not None
    assert int((long.path / "step.txt").read_text()) == long.state.progress.step > 0
    assert [word for word, *_ in marks(long)] == ["begin", "end"]
    assert results(other) == 1
    assert cancel([long])[0][0].action == "nothing", "cancelling twice says so"


def test_a_worker_that_does_not_listen_is_named_and_left_to_answer(make: Make, tmp_path: Path, until: Until) -> None:
    deaf = make("caps/both/seed-0", steps=3000, deaf=True)
    with launcher(tmp_path) as process:
        until(lambda: (deaf.path / "step.txt").exists())
        done, _ = cancel([deaf], patience=0.3)
        assert done[0].action == "stopping"
        assert f"process {marks(deaf)[0][1]} on " in done[0].message
        process.kill()


def test_a_result_or_a_failure_is_left_as_it_is(make: Make) -> None:
    runs = [make(f"caps/both/seed-{n}") for n in range(3)]
    for run, status in zip(runs, ("finished", "diverged", "failed"), strict=True):
        run.state = State(status=status)  # type: ignore[arg-type]
    done, _ = cancel(runs)
    assert [outcome.action for outcome in done] == ["nothing"] * 3
    assert [run.state.status for run in runs] == ["finished", "diverged", "failed"]


def test_a_run_that_was_lost_or_preempted_keeps_its_progress(make: Make) -> None:
    run = make("caps/both/seed-0")
    run.state = State(
        status="running",
        attempts=2,
        progress={"step": 7, "steps": 9, "tokens": 70, "loss": 1.0, "tokens_per_second": None},
    )
    assert cancel([run])[0][0].message == "was running at step 7 of 9"
    assert (run.state.status, run.state.attempts) == ("cancelled", 2)


def test_a_request_means_one_attempt(make: Make) -> None:
    run = make("caps/both/seed-0")
    request(run, 3, "cancelled by somebody")
    assert requested(run, 3) == "cancelled by somebody"
    assert requested(run, 4) is None
    (run.path / ".cancel.json").write_text("{")
    assert requested(run, 3) is None


class FakeJobs:
    def __init__(self, waiting: Mapping[str, Sequence[RunFolder]], running: Mapping[str, Sequence[RunFolder]]) -> None:
        self._waiting, self._running = waiting, running
        self.ended: list[str] = []
        self.on_end: Callable[[], None] = lambda: None

    def waiting(self) -> Mapping[str, Sequence[RunFolder]]:
        return self._waiting

    def running(self) -> Mapping[str, Sequence[RunFolder]]:
        return self._running

    def cancel(self, jobs: Sequence[str]) -> str | None:
        self.ended += jobs
        self.on_end()
        return None


def test_a_waiting_job_is_ended_only_if_all_its_runs_are(make: Make) -> None:
    a, b, c, d = (make(f"caps/both/seed-{n}") for n in range(4))
    d.state = State(status="finished")
    jobs = FakeJobs({"1_0": [a, b], "1_1": [c], "1_2": [d]}, {})
    cancel([a, c], jobs=[jobs])
    assert jobs.ended == ["1_1"], "b is to be run by the first, and nobody asked about the last"
    cancel([b], jobs=[jobs])
    assert jobs.ended == ["1_1", "1_0"]


def test_a_running_job_is_ended_only_after_patience_and_if_it_has_nothing_else(make: Make) -> None:
    a, b, c = (make(f"caps/both/seed-{n}") for n in range(3))
    claims = {run: Claim.take(run.path) for run in (a, b)}
    for run in (a, b):
        run.state = State(status="running", attempts=1)
    jobs = FakeJobs({}, {"1": [a], "2": [b, c]})

    def killed() -> None:
        claim = claims[a]
        assert claim is not None
        claim.release()

    jobs.on_end = killed
    done, _ = cancel([a, b], jobs=[jobs], patience=0.3)
    assert jobs.ended == ["1"], "c is still to be run by the other"
    assert [outcome.action for outcome in done] == ["cancelled", "stopping"]
    assert a.state.status == "cancelled"


def test_what_could_not_be_cancelled_is_reported(make: Make) -> None:
    run = make("caps/both/seed-0")
    jobs = FakeJobs({"7": [run]}, {})
    jobs.cancel = lambda jobs: "scancel had no answer in 20 s"  # type: ignore[method-assign]
    done, notes = cancel([run], jobs=[jobs])
    assert done[0].action == "cancelled"
    assert notes == ["job 7 could not be cancelled: scancel had no answer in 20 s"]

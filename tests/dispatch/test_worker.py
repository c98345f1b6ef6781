"""A worker leaves in the run folder how its run ended, whatever happens, and says it by its exit code."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.dispatch.worker import heartbeat as pulse_module
from lab.dispatch.worker.attempt import DIVERGED, FAILED, FINISHED, HELD, PREEMPTED, Report, Stop, execute
from lab.dispatch.worker.claim import Claim, holder
from lab.records import Progress, RunFolder, State, write_json
from lab.training.progress.outcome import Outcome
from tests.dispatch.fakes import FAKE_WORKER, begun, results
from tests.records.made import info

Make = Callable[..., RunFolder]
Until = Callable[..., None]
Serve = Callable[[], "subprocess.Popen[str]"]


def work(run: RunFolder, *arguments: str) -> int:
    done = subprocess.run([*FAKE_WORKER, str(run.path), *arguments], capture_output=True, timeout=300)
    assert done.stdout == b""
    return done.returncode


def start(run: RunFolder) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*FAKE_WORKER, str(run.path)])


def attempt(run: RunFolder, outcome: Outcome | BaseException | None = None, **options: object) -> int:
    """An attempt in this process, which ends as given."""

    def train(run: RunFolder, report: Report, stop: Stop) -> Outcome:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome or Outcome("finished", None)

    return execute(run, train, stop=options.pop("stop", None) or Stop(), capture=False, **options)  # type: ignore[arg-type]


def test_a_finished_run_ends_with_code_0_and_a_summary(make: Make) -> None:
    run = make("caps/both/seed-0")
    assert work(run) == FINISHED == 0
    state = run.state
    assert (state.status, state.attempts, state.reason, state.failure) == ("finished", 1, None, None)
    assert state.progress == Progress(step=2, steps=2, tokens=20, loss=0.5, tokens_per_second=100.0)
    assert state.heartbeat is not None
    assert holder(run.path) is None


def test_a_diverged_run_ends_with_its_exit_code_and_reason(make: Make) -> None:
    run = make("caps/both/seed-0", do="diverge")
    assert work(run) == DIVERGED == 3
    assert run.state.status == "diverged"
    assert run.state.reason == "the loss is nan at step 3"


@pytest.mark.parametrize(
    ("do", "failure", "reason"),
    [
        ("bug", "bug", "KeyError: 'n_heads'"),
        ("no_memory", "out_of_memory", "RuntimeError: DefaultCPUAllocator: not enough memory"),
        ("sys_exit", "bug", "SystemExit: that's it"),
    ],
)
def test_a_failed_run_names_its_failure_and_logs_the_traceback(make: Make, do: str, failure: str, reason: str) -> None:
    run = make("caps/both/seed-0", do=do)
    assert work(run) == FAILED == 1
    state = run.state
    assert (state.status, state.failure) == ("failed", failure)
    assert state.reason is not None
    assert state.reason.startswith(reason)
    log = (run.path / "log.txt").read_text()
    assert "Traceback (most recent call last)" in log
    assert state.reason in log


def test_the_log_holds_all_output_of_every_attempt(make: Make) -> None:
    run = make("caps/both/seed-0", do="loud")
    assert work(run) == FINISHED
    log = (run.path / "log.txt").read_text()
    assert log.startswith("==== attempt 1 on ")
    for said in ("from Python", "from a child", "complaint", "finished after"):
        assert said in log
    run.state = State(status="preempted", attempts=1)
    assert work(run) == FINISHED
    assert (run.path / "log.txt").read_text().startswith(log + "==== attempt 2 on ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_preempts_and_the_next_worker_continues(make: Make, until: Until, number: signal.Signals) -> None:
    run = make("caps/both/seed-0", steps=400, pause=0.005)
    worker = start(run)
    until(lambda: (run.path / "step.txt").exists())
    worker.send_signal(number)
    assert worker.wait(300) == PREEMPTED == 75
    assert run.state.status == "preempted"
    assert run.state.reason == f"stopped by {number.name}"
    step = int((run.path / "step.txt").read_text())
    assert 0 < step < 400
    assert results(run) == 0
    config = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(config.replace("steps: 400", f"steps: {step + 2}"))
    assert work(run) == FINISHED
    assert run.state.attempts == 2
    assert results(run) == 1
    assert run.state.progress is not None
    assert run.state.progress.loss == pytest.approx(1 / (step + 2))


def test_a_run_held_by_another_worker_is_left_alone(make: Make, until: Until) -> None:
    run = make("caps/both/seed-0", steps=1000)
    first = start(run)
    until(lambda: begun(run) == 1)
    assert work(run) == HELD == 4
    assert begun(run) == 1
    assert run.state.pid == first.pid
    first.terminate()
    assert first.wait(300) == PREEMPTED


def test_a_run_with_a_result_is_not_run_again(make: Make) -> None:
    run = make("caps/both/seed-0")
    assert work(run) == FINISHED
    assert work(run) == FINISHED
    assert begun(run) == 1
    assert run.state.attempts == 1


def test_a_result_that_its_worker_died_over_is_adopted(make: Make) -> None:
    run = make("caps/both/seed-0")
    run.state = State(status="running", attempts=1)
    write_json(run.path / "summary.json", {"version": 1, "status": "diverged", "reason": "nan"})
    assert attempt(run, AssertionError("must not be run")) == DIVERGED
    assert (run.state.status, run.state.reason, run.state.attempts) == ("diverged", "nan", 1)


def test_a_run_that_has_moved_on_is_not_begun(make: Make) -> None:
    run = make("caps/both/seed-0")
    run.state = State(status="failed", attempts=2)
    assert attempt(run, attempts=1) == HELD
    assert run.state == State(status="failed", attempts=2)
    assert attempt(run, attempts=2) == FINISHED


def test_a_stop_before_the_start_preempts_without_training(make: Make) -> None:
    run, stop = make("caps/both/seed-0"), Stop()
    stop.request("SIGTERM")
    assert attempt(run, AssertionError("must not be run"), stop=stop) == PREEMPTED
    assert run.state.status == "preempted"


def test_ctrl_c_in_the_middle_of_training_preempts(make: Make) -> None:
    run = make("caps/both/seed-0")
    assert attempt(run, KeyboardInterrupt()) == PREEMPTED
    assert run.state.status == "preempted"
    assert run.state.failure is None


def test_progress_survives_into_the_next_attempt(make: Make) -> None:
    run = make("caps/both/seed-0")

    def train(run: RunFolder, report: Report, stop: Stop) -> Outcome:
        report(Progress(5, 10, 50, loss=1.5))
        return Outcome("preempted", "time is up")

    execute(run, train, stop=Stop(), capture=False)
    assert run.state.reason == "time is up"

    def look(run: RunFolder, report: Report, stop: Stop) -> Outcome:
        assert run.state.status == "running"
        assert run.state.progress is not None
        assert run.state.progress.step == 5
        return Outcome("finished", None)

    assert execute(run, look, stop=Stop(), capture=False) == FINISHED


def test_a_long_silence_of_training_does_not_look_dead(
    make: Make, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse_module, "INTERVAL", 0.02)
    run = make("caps/both/seed-0")

    def train(run: RunFolder, report: Report, stop: Stop) -> Outcome:
        first = run.state.heartbeat
        assert first is not None
        os.utime(run.path / ".claims" / "1", (0, 0))
        until(lambda: (run.state.heartbeat or 0) > first)
        until(lambda: (run.path / ".claims" / "1").stat().st_mtime > 0)
        return Outcome("finished", None)

    assert execute(run, train, stop=Stop(), capture=False) == FINISHED


def test_a_worker_that_was_taken_over_stops_and_writes_nothing_more(
    make: Make, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse_module, "INTERVAL", 0.02)
    run, theirs = make("caps/both/seed-0"), State(status="running", attempts=7, host="another")

    def train(run: RunFolder, report: Report, stop: Stop) -> Outcome:
        (run.path / ".claims" / "2").write_text("")
        until(stop)
        run.state = theirs
        return Outcome("finished", None)

    assert execute(run, train, stop=Stop(), capture=False) == HELD
    assert run.state == theirs


def test_a_full_disk_in_mid_run_does_not_end_the_signs_of_life(
    make: Make, until: Until, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pulse_module, "INTERVAL", 0.02)
    run = make("caps/both/seed-0")
    said = ""

    def train(run: RunFolder, report: Report, stop: Stop) -> Outcome:
        def full(path: Path, obj: object) -> None:
            raise OSError(28, "No space left on device")

        def complained() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "No space left" in said

        with monkeypatch.context() as patch:
            patch.setattr("lab.records.run_files.state.write_json", full)
            until(complained)
        before = run.state.heartbeat
        until(lambda: run.state.heartbeat != before)
        return Outcome("finished", None)

    assert execute(run, train, stop=Stop(), capture=False) == FINISHED


def test_provenance_is_recorded_before_training_and_completed_after(make: Make) -> None:
    run = make("caps/both/seed-0")
    assert work(run) == FINISHED
    provenance = info(run)["provenance"]
    assert {"host", "platform", "cpu", "python", "torch", "lightning", "commit", "dirty"} <= provenance.keys()
    assert provenance["kernels"] == {"sdpa": 2}
    failed = make("caps/both/seed-1", do="bug")
    work(failed)
    assert info(failed)["provenance"]["host"] == provenance["host"]


def test_threads_reach_the_numerical_libraries(make: Make) -> None:
    run = make("caps/both/seed-0")
    script = (
        "import os, sys; from lab.dispatch.worker.worker import main\n"
        "from lab.training.progress.outcome import Outcome\n"
        "def train(run, report, stop):\n"
        "    print(os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])\n"
        "    return Outcome('finished', None)\n"
        "main(train=train)"
    )
    subprocess.run([sys.executable, "-c", script, str(run.path), "--threads", "3"], check=True)
    assert "\n3 3\n" in (run.path / "log.txt").read_text()


@pytest.mark.parametrize("arguments", [["nowhere"], [], ["--serve", "x"], ["--serve", "--threads", "0"]])
def test_a_wrong_request_ends_with_code_2(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "lab.dispatch.worker", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "error:" in done.stderr


class TestServing:
    @pytest.fixture
    def serve(self) -> Callable[[], subprocess.Popen[str]]:
        command = [*FAKE_WORKER, "--serve"]
        return functools.partial(subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @staticmethod
    def ask(worker: subprocess.Popen[str], run: RunFolder) -> None:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps({"run": str(run.path), "attempts": 0}) + "\n")
        worker.stdin.flush()

    @staticmethod
    def end(worker: subprocess.Popen[str]) -> None:
        assert worker.stdin is not None
        worker.stdin.close()

    @staticmethod
    def answer(worker: subprocess.Popen[str]) -> int:
        assert worker.stdout is not None
        return int(json.loads(worker.stdout.readline())["code"])

    def test_one_process_takes_runs_in_turn_each_with_its_own_log(self, make: Make, serve: Serve) -> None:
        runs = [make(f"caps/both/seed-{n}", do="loud") for n in range(3)]
        with serve() as worker:
            for run in runs:
                self.ask(worker, run)
            assert [self.answer(worker) for _ in runs] == [FINISHED] * 3
            self.end(worker)
            assert worker.wait(300) == 0
        for run in runs:
            assert run.state.pid == worker.pid
            assert (run.path / "log.txt").read_text().count("from a child") == 1

    def test_a_failure_ends_the_process_after_its_answer(self, make: Make, serve: Serve) -> None:
        with serve() as worker:
            self.ask(worker, make("caps/both/seed-0", do="bug"))
            assert self.answer(worker) == FAILED
            assert worker.wait(300) == FAILED

    def test_the_end_of_its_input_preempts(self, make: Make, serve: Serve, until: Until) -> None:
        run = make("caps/both/seed-0", steps=1000)
        with serve() as worker:
            self.ask(worker, run)
            until(lambda: begun(run))
            self.end(worker)
            assert worker.wait(300) == PREEMPTED
        assert run.state.reason == "stopped by the end of its launcher"

    def test_a_run_that_reads_its_input_does_not_eat_the_next_request(self, make: Make, serve: Serve) -> None:
        first, second = make("caps/both/seed-0", do="read_input"), make("caps/both/seed-1")
        with serve() as worker:
            self.ask(worker, first)
            self.ask(worker, second)
            assert [self.answer(worker), self.answer(worker)] == [FINISHED, FINISHED]
        assert "\n''\n" in (first.path / "log.txt").read_text()

    def test_a_signal_ends_an_idle_process(self, make: Make, serve: Serve) -> None:
        with serve() as worker:
            self.ask(worker, make("caps/both/seed-0"))
            assert self.answer(worker) == FINISHED
            worker.terminate()
            assert worker.wait(300) == 0


def test_a_claim_left_by_this_very_process_is_a_defect_that_shows(make: Make) -> None:
    run = make("caps/both/seed-0")
    assert Claim.take(run.path) is not None
    assert attempt(run) == HELD

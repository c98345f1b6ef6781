"""The local launcher is a queue that nothing breaks: so many at once, each run once, whatever is killed and when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.dispatch.launchers.local.scheduler import LocalSummary, run_local
from lab.dispatch.worker.attempt import Stop
from lab.dispatch.worker.claim import holder
from lab.records import RunFolder, State
from tests import forked
from tests.dispatch.fakes import CRASHES, FAKE_WORKER, begun, marks, most_at_once, results

pytestmark = pytest.mark.slow

Make = Callable[..., RunFolder]
Until = Callable[..., None]


def run_all(runs: list[RunFolder], max_parallel: int = 2, **options: object) -> LocalSummary:
    return run_local(runs, max_parallel=max_parallel, threads=1, worker=FAKE_WORKER, **options)  # type: ignore[arg-type]


def launcher(root: Path, max_parallel: int = 2) -> subprocess.Popen[str]:
    """`run_local` on all runs below the root, in a process of its own."""
    return subprocess.Popen(
        [forked.REAL_PYTHON, "-m", "tests.dispatch.launch", str(root), str(max_parallel)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def pids(runs: list[RunFolder]) -> set[int]:
    return {pid for run in runs for _, pid, _ in marks(run)}


def test_never_more_than_max_parallel_at_once_and_as_many_where_it_can(make: Make) -> None:
    runs = [make(f"caps/both/seed-{n}", steps=6, pause=0.03) for n in range(7)]
    summary = run_all(runs, max_parallel=3)
    assert summary.outcomes == {run.name: "finished" for run in runs}
    assert most_at_once(runs) == 3
    assert len(pids(runs)) == 3, "a worker takes one run after the other"


def test_runs_begin_in_the_order_given(make: Make) -> None:
    runs = [make(f"caps/both/seed-{n}") for n in (2, 0, 1)]
    run_all(runs, max_parallel=1)
    began = [marks(run)[0][2] for run in runs]
    assert began == sorted(began)


def test_each_change_of_status_is_reported(make: Make) -> None:
    run = make("caps/both/seed-0")
    told: list[str] = []
    run_all([run], on_change=lambda run: told.append(f"{run.name} {run.state.status}"))
    assert len(told) == 2
    assert told[1] == "caps/both/seed-0 finished"


def test_what_has_a_result_is_skipped_and_what_was_cut_off_continues(make: Make) -> None:
    before: dict[str, State] = {
        "finished": State(status="finished", attempts=1),
        "diverged": State(status="diverged", attempts=1),
        "failed": State(status="failed", attempts=1, failure="bug"),
        "blocked": State(status="blocked"),
        "preempted": State(status="preempted", attempts=1),
        "lost": State(status="lost", attempts=1),
        "running": State(status="running", attempts=1, host="gone", pid=1),
        "queued": State(),
    }
    runs = {word: make(f"caps/{word}/seed-0") for word in before}
    for word, state in before.items():
        runs[word].state = state
    summary = run_all(list(runs.values()))
    went_on = {"preempted", "lost", "running", "queued"}
    assert set(summary.outcomes) == {runs[word].name for word in went_on}
    assert summary.skipped_runs == {runs[word].name: word for word in before.keys() - went_on}
    for word, run in runs.items():
        assert begun(run) == (word in went_on)
        assert run.state.attempts == before[word].attempts + (word in went_on)
    assert run_all(list(runs.values())).outcomes == {}


def test_failed_runs_are_retried_when_asked_for_and_once_a_call(make: Make) -> None:
    bug, other = make("caps/bug/seed-0", do="bug"), make("caps/other/seed-0")
    assert run_all([bug, other]).outcomes == {bug.name: "failed", other.name: "finished"}
    assert run_all([bug, other]).outcomes == {}
    assert begun(bug) == 1
    assert run_all([bug, other], retry_failed=True).outcomes == {bug.name: "finished"}
    assert begun(bug) == 2


@pytest.mark.parametrize(("do", "status", "failure", "reason"), CRASHES)
def test_a_runs_crash_takes_no_other_run_along(make: Make, do: str, status: str, failure: str, reason: str) -> None:
    crash = make("caps/crash/seed-0", do=do)
    others = [make(f"caps/fine/seed-{n}", pause=0.03) for n in range(4)]
    summary = run_all([others[0], crash, *others[1:]])
    assert summary.outcomes == {crash.name: status} | {run.name: "finished" for run in others}
    assert (crash.state.status, crash.state.failure) == (status, failure)
    assert reason in (crash.state.reason or "")
    assert [begun(run) for run in (crash, *others)] == [1] * 5
    assert holder(crash.path) is None


def test_a_killed_run_continues_in_the_next_call(make: Make) -> None:
    run = make("caps/both/seed-0", do="kill")
    assert run_all([run]).outcomes == {run.name: "lost"}
    assert run_all([run]).outcomes == {run.name: "finished"}
    assert run.state.attempts == 2


def test_a_worker_killed_from_outside_is_replaced(make: Make, until: Until) -> None:
    runs = [make(f"caps/both/seed-{n}", steps=8, pause=0.03) for n in range(4)]

    def assassin() -> None:
        until(lambda: begun(runs[0]))
        os.kill(marks(runs[0])[0][1], signal.SIGKILL)

    thread = threading.Thread(target=assassin)
    thread.start()
    summary = run_all(runs, max_parallel=1)
    thread.join()
    assert list(summary.outcomes.values()) == ["lost", "finished", "finished", "finished"]


def test_workers_that_cannot_start_fail_their_runs_with_the_reason(make: Make) -> None:
    runs = [make(f"caps/both/seed-{n}") for n in range(2)]
    broken = (sys.executable, "-c", "raise ImportError('no lab here')")
    summary = run_local(runs, max_parallel=1, threads=1, worker=broken)
    assert set(summary.outcomes.values()) == {"failed"}
    assert "ImportError: no lab here" in (runs[0].state.reason or "")


def test_a_killed_launchers_work_is_continued_and_nothing_repeated(tmp_path: Path, make: Make, until: Until) -> None:
    runs = [make(f"caps/both/seed-{n}", steps=10, pause=0.02) for n in range(5)]
    first = launcher(tmp_path)
    until(lambda: sum(results(run) for run in runs) >= 1 and sum(begun(run) for run in runs) >= 3)
    first.kill()
    first.communicate()
    done = [run for run in runs if run.state.status == "finished"]
    assert 0 < len(done) < 5
    second = launcher(tmp_path)
    assert second.wait(300) == 0
    second.communicate()
    assert [run.state.status for run in runs] == ["finished"] * 5
    assert [results(run) for run in runs] == [1] * 5
    assert all(begun(run) == 1 for run in done)
    assert sum(begun(run) for run in runs) <= 5 + 2, "only the two that were cut off were begun again"


def test_a_killed_launchers_worker_is_waited_for_while_it_still_works(tmp_path: Path, make: Make, until: Until) -> None:
    run = make("caps/both/seed-0", steps=30, pause=0.03, deaf=True)
    first = launcher(tmp_path)
    until(lambda: begun(run))
    first.kill()
    first.communicate()
    assert holder(run.path) is not None
    assert run_all([run]).skipped_runs == {run.name: "finished"}
    assert (begun(run), results(run)) == (1, 1)


def test_two_launchers_at_once_run_nothing_twice(tmp_path: Path, make: Make) -> None:
    runs = [make(f"caps/both/seed-{n}", steps=3) for n in range(12)]
    both = [launcher(tmp_path), launcher(tmp_path)]
    counts = [process.communicate(timeout=300)[0].split() for process in both]
    assert [begun(run) for run in runs] == [1] * 12
    assert [results(run) for run in runs] == [1] * 12
    assert sum(int(n_run) for n_run, *_ in counts) == 12
    assert all(int(n_run) + int(n_skipped) == 12 for n_run, n_skipped, *_ in counts)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_launcher_waits_for_checkpoints_and_begins_nothing_more(
    tmp_path: Path, make: Make, until: Until, number: signal.Signals
) -> None:
    runs = [make(f"caps/both/seed-{n}", steps=1000) for n in range(4)]
    process = launcher(tmp_path)
    until(lambda: sum(begun(run) for run in runs) == 2)
    process.send_signal(number)
    output = process.communicate(timeout=300)[0]
    assert output.split() == ["2", "0", "2", number.name]
    assert sorted(run.state.status for run in runs) == ["preempted", "preempted", "queued", "queued"]
    assert all(holder(run.path) is None for run in runs)


def test_the_second_ctrl_c_kills(tmp_path: Path, make: Make, until: Until) -> None:
    run = make("caps/both/seed-0", steps=3000, deaf=True)
    process = launcher(tmp_path)
    until(lambda: begun(run))
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert holder(run.path) is not None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert holder(run.path) is None
    assert run.state.status == "lost"


def test_a_call_can_be_stopped_from_another_thread(make: Make, until: Until) -> None:
    runs = [make(f"caps/both/seed-{n}", steps=1000) for n in range(2)]
    stop, summaries = Stop(), []
    thread = threading.Thread(target=lambda: summaries.append(run_all(runs, max_parallel=1, stop=stop)))
    thread.start()
    until(lambda: begun(runs[0]))
    stop.request("the test")
    thread.join(300)
    assert summaries[0].stop_reason == "the test"
    assert summaries[0].outcomes == {runs[0].name: "preempted"}
    assert summaries[0].pending_runs == [runs[1].name]


def test_a_run_on_another_host_is_not_waited_for(make: Make) -> None:
    run = make("caps/both/seed-0")
    (run.path / ".claims").mkdir()
    claim = {"host": "elsewhere", "pid": 1, "mark": "boot/1", "taken": 0, "released": None}
    (run.path / ".claims" / "1").write_text(json.dumps(claim))
    summary = run_all([run])
    assert summary.remote_runs == [run.name]
    assert begun(run) == 0


def test_an_error_of_the_caller_stops_the_workers(make: Make, until: Until) -> None:
    run = make("caps/both/seed-0", steps=1000)

    def broken(_: RunFolder) -> None:
        until(lambda: begun(run))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_all([run], on_change=broken)
    assert run.state.status == "preempted"


def test_signal_handlers_are_as_before(make: Make) -> None:
    before = signal.getsignal(signal.SIGINT)
    run_all([make("caps/both/seed-0")])
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("options", [{"max_parallel": 0}, {"threads": 0}])
def test_an_impossible_share_is_refused_before_anything_runs(make: Make, options: dict[str, int]) -> None:
    run = make("caps/both/seed-0")
    with pytest.raises(ValueError, match=next(iter(options))):
        run_local([run], worker=FAKE_WORKER, **options)  # type: ignore[arg-type]
    assert begun(run) == 0

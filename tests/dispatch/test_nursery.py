"""Workers that are forked from one process keep every promise of workers that were started alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lab.dispatch.launchers.local import scheduler, worker_start
from lab.dispatch.launchers.local.machine import MachineShare
from lab.dispatch.launchers.local.scheduler import LocalSummary, run_local
from lab.dispatch.worker.claim import holder
from lab.records import RunFolder, read_process_seconds
from tests import forked
from tests.dispatch.fakes import CRASHES, FAKE_NURSERY, FAKE_WORKER, begun, fork_fake_workers, marks, results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not worker_start.Nursery.is_possible(), reason="workers are forked on Linux only"),
]

Make = Callable[..., RunFolder]
Until = Callable[..., None]


@pytest.fixture
def run_forked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LocalSummary]:
    """`run_local` with two forked workers."""
    fork_fake_workers(monkeypatch.setattr)

    def run_all(runs: list[RunFolder], **options: object) -> LocalSummary:
        return run_local(runs, max_parallel=2, threads=1, worker=FAKE_WORKER, **options)  # type: ignore[arg-type]

    return run_all


def launcher(root: Path) -> subprocess.Popen[str]:
    """`run_local` with forked workers on all runs below the root, in a process of its own."""
    command = [forked.REAL_PYTHON, "-m", "tests.dispatch.launch", str(root), "2", "nursery"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def nursery_of(run: RunFolder) -> psutil.Process:
    """The process that forked the worker of a run."""
    parent = psutil.Process(marks(run)[-1][1]).parent()
    assert parent is not None
    return parent


def test_workers_are_processes_of_their_own_with_one_parent(
    run_forked: Callable[..., LocalSummary], make: Make, until: Until
) -> None:
    runs = [make(f"caps/both/seed-{n}", steps=20, pause=0.02) for n in range(2)]
    parents, sessions = set(), set()

    def look() -> None:
        until(lambda: all(begun(run) for run in runs))
        parents.update(nursery_of(run).pid for run in runs)
        sessions.update(os.getsid(marks(run)[0][1]) for run in runs)

    thread = threading.Thread(target=look)
    thread.start()
    assert set(run_forked(runs).outcomes.values()) == {"finished"}
    thread.join()
    assert sessions == {marks(run)[0][1] for run in runs}, "each leads a session of its own"
    assert len(sessions) == 2
    assert len(parents) == 1
    assert not psutil.pid_exists(parents.pop()), "it ends with its launcher's call"
    records = read_process_seconds(runs[0].path.parents[1])
    assert sorted(record.process for record in records) == ["nursery", "worker", "worker"]


@pytest.mark.parametrize(("do", "status", "failure", "reason"), CRASHES)
def test_a_crash_takes_no_other_run_along(
    run_forked: Callable[..., LocalSummary], make: Make, do: str, status: str, failure: str, reason: str
) -> None:
    crash = make("caps/crash/seed-0", do=do)
    others = [make(f"caps/fine/seed-{n}", pause=0.03) for n in range(3)]
    summary = run_forked([others[0], crash, *others[1:]])
    assert summary.outcomes == {crash.name: status} | {run.name: "finished" for run in others}
    assert (crash.state.status, crash.state.failure) == (status, failure)
    assert reason in (crash.state.reason or "")
    assert [begun(run) for run in (crash, *others)] == [1] * 4
    assert holder(crash.path) is None


def test_a_nursery_that_cannot_import_fails_its_runs_with_the_reason(
    run_forked: Callable[..., LocalSummary], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (sys.executable, "-c", "raise ImportError('no lab here')")
    monkeypatch.setattr(worker_start, "NURSERY", broken)
    runs = [make(f"caps/both/seed-{n}") for n in range(2)]
    assert set(run_forked(runs).outcomes.values()) == {"failed"}
    assert "ImportError: no lab here" in (runs[0].state.reason or "")


def test_runs_of_a_killed_nursery_are_lost_and_another_takes_the_rest(
    run_forked: Callable[..., LocalSummary], make: Make, until: Until
) -> None:
    runs = [make(f"caps/both/seed-{n}", steps=400 if n < 2 else 2, pause=0.02) for n in range(4)]

    def kill() -> None:
        until(lambda: all(begun(run) for run in runs[:2]))
        nursery_of(runs[0]).kill()

    thread = threading.Thread(target=kill)
    thread.start()
    summary = run_forked(runs)
    thread.join()
    assert [summary.outcomes[run.name] for run in runs] == ["lost", "lost", "finished", "finished"]
    assert [holder(run.path) for run in runs] == [None] * 4
    assert set(run_forked(runs).outcomes.values()) == {"finished"}
    assert [results(run) for run in runs] == [1] * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_signals_to_all_processes_of_a_job_leave_the_nursery_alone(
    run_forked: Callable[..., LocalSummary], make: Make, until: Until, number: signal.Signals
) -> None:
    runs = [make(f"caps/both/seed-{n}", steps=30, pause=0.02) for n in range(2)]

    def send() -> None:
        until(lambda: all(begun(run) for run in runs))
        nursery_of(runs[0]).send_signal(number)

    thread = threading.Thread(target=send)
    thread.start()
    summary = run_forked(runs)
    thread.join()
    assert set(summary.outcomes.values()) == {"finished"}


def test_a_killed_launchers_work_is_continued_and_nothing_repeated(tmp_path: Path, make: Make, until: Until) -> None:
    runs = [make(f"caps/both/seed-{n}", steps=10, pause=0.02) for n in range(5)]
    first = launcher(tmp_path)
    until(lambda: sum(results(run) for run in runs) >= 1 and sum(begun(run) for run in runs) >= 3)
    first.kill()
    first.communicate()
    assert launcher(tmp_path).wait(300) == 0
    assert [run.state.status for run in runs] == ["finished"] * 5
    assert [results(run) for run in runs] == [1] * 5
    assert sum(begun(run) for run in runs) <= 5 + 2, "only the two that were cut off were begun again"


def test_a_stopped_launcher_waits_for_checkpoints_and_the_second_ctrl_c_kills(
    tmp_path: Path, make: Make, until: Until
) -> None:
    polite, deaf = make("caps/polite/seed-0", steps=3000), make("caps/deaf/seed-0", steps=3000, deaf=True)
    process = launcher(tmp_path)
    until(lambda: begun(polite) and begun(deaf))
    process.send_signal(signal.SIGINT)
    until(lambda: polite.state.status == "preempted")
    assert holder(deaf.path) is not None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert (deaf.state.status, holder(deaf.path)) == ("lost", None)


@pytest.mark.parametrize(
    ("command", "share", "starter"),
    [
        (FAKE_WORKER, MachineShare(2, 1), worker_start.Nursery),
        (FAKE_WORKER, MachineShare(1, 1), worker_start.CommandStarter),
        (FAKE_WORKER, MachineShare(2, 1, ("0", "1")), worker_start.CommandStarter),
        (FAKE_NURSERY, MachineShare(2, 1), worker_start.CommandStarter),
    ],
    ids=["two workers", "one has nothing to share", "a GPU can't be forked", "another command"],
)
def test_workers_are_forked_where_that_pays_and_is_safe(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    share: MachineShare,
    starter: type[worker_start.Starter],
) -> None:
    fork_fake_workers(monkeypatch.setattr)
    assert type(scheduler._starter(command, share, [make("caps/both/seed-0")])) is starter


def _threads_after_imports() -> int:
    from lab.dispatch.worker.worker import preload

    preload()
    return len(os.listdir("/proc/self/task"))


def test_imports_start_no_threads_that_a_fork_would_lose(tmp_path: Path) -> None:
    process = forked.Forked(
        _threads_after_imports, environment={**os.environ, "OMP_NUM_THREADS": "1"}, output=tmp_path / "output"
    )
    assert process.wait() == 1

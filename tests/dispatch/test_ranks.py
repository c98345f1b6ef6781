"""A run over several processes: one holds it, all begin and end together, and none is left behind."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.dispatch.worker.attempt import FAILED, FINISHED, HELD, PREEMPTED
from lab.dispatch.worker.claim import Claim, holder
from lab.records import RunFolder, State
from lab.training.checkpoints import verified
from tests.dispatch import rank_process
from tests.forked import Forked
from tests.records.made import info, make_run
from tests.training import tiny
from tests.training.ranks import free_port
from tests.training.tiny import newest_weights

pytestmark = pytest.mark.trains

Make = Callable[..., RunFolder]
Until = Callable[..., None]


def queued(root: Path, name: str, **config: Any) -> RunFolder:
    """A run whose configuration is what `rank_process` reads: 30 steps, unless it says otherwise."""
    info = {
        "version": 1,
        "identity": hashlib.sha256(name.encode()).hexdigest(),
        "sweep": "sums",
        "arm": name,
        "seed": 0,
    }
    config = {"steps": 30, "pause": 0.0, "train": {"accelerator": "cpu"}} | config
    return make_run(root / "sums" / name / "seed-0", yaml.safe_dump(config), info)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return functools.partial(queued, tmp_path)


@contextlib.contextmanager
def started(
    run: RunFolder, strategy: str = "ddp", *, of_two: Sequence[int] = (0, 1), **options: object
) -> Iterator[list[Forked]]:
    """The run's two processes, or those named, as srun starts them; they are gone afterwards."""
    port = free_port()
    processes = []
    for rank in of_two:
        slurm = {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": 2, "SLURM_LOCALID": rank, "SLURM_STEP_NUM_NODES": 1}
        slurm |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        slurm |= {"REPLY": 600, **options}  # beyond any wait here: what ends a process is what its test is about
        environment = os.environ | {name: str(value) for name, value in slurm.items()}
        output = run.path.parents[2] / f"{run.path.parent.name}-{rank}.txt"
        processes.append(Forked(rank_process.main, str(run.path), strategy, environment=environment, output=output))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def codes(processes: list[Forked]) -> list[int]:
    return [process.wait() for process in processes]


def begun(run: RunFolder, step: int = 2) -> Callable[[], bool]:
    return lambda: any(point["step"] >= step for point in run.metrics())


def same_result(run: RunFolder, reference: RunFolder) -> bool:
    same = tiny.same(newest_weights(run.path), newest_weights(reference.path))
    return same and tiny.timeless(run.path) == tiny.timeless(reference.path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = queued(tmp_path_factory.mktemp("runs"), "whole")
    with started(run) as processes:
        assert codes(processes) == [FINISHED, FINISHED]
    return run


def test_a_run_of_two_finishes_and_both_say_so(undisturbed: RunFolder) -> None:
    state = undisturbed.state
    assert (state.status, state.attempts, state.reason) == ("finished", 1, None)
    assert state.progress is not None
    assert state.progress.step == 30
    assert holder(undisturbed.path) is None
    assert info(undisturbed)["provenance"]["processes"] == 2


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_other_ends_and_the_next_attempt_continues(
    make: Make, until: Until, undisturbed: RunFolder, victim: int
) -> None:
    run = make("killed", pause=0.1)
    with started(run) as processes:
        until(begun(run, 4))
        processes[victim].kill()
        assert processes[1 - victim].wait() == FAILED
    if victim == 1:
        state = run.state
        assert (state.status, state.failure) == ("lost", "interrupted")
        assert re.fullmatch(rf"process 1 \({processes[1].pid} on \S+\) of 2 is gone", state.reason or "")
    assert holder(run.path) is None
    with started(run) as processes:
        assert codes(processes) == [FINISHED, FINISHED]
    assert run.state.attempts == 2
    assert same_result(run, undisturbed)


@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_preempts_all(make: Make, until: Until, undisturbed: RunFolder, told: int) -> None:
    run = make("told", pause=0.1)
    with started(run, strategy="fsdp") as processes:
        until(begun(run))
        processes[told].send_signal(signal.SIGUSR2)
        assert codes(processes) == [PREEMPTED, PREEMPTED]
    assert run.state.status == "preempted"
    newest = verified.newest(run.path)
    assert newest is not None
    assert f"step {verified.step_of(newest)}" in (run.state.reason or "") or told == 0


def test_an_error_in_another_process_is_the_runs_own(make: Make) -> None:
    run = make("oom", do="oom", on=1, at=3)
    with started(run) as processes:
        assert codes(processes) == [FAILED, FAILED]
    state = run.state
    assert (state.status, state.failure) == ("failed", "out_of_memory")
    assert re.search(r"process 1 \(\d+ on \S+\) of 2: RuntimeError: DefaultCPUAllocator", state.reason or "")
    assert "in asked" in (run.path / "log.txt").read_text(), "the traceback from there"


def test_an_error_in_the_first_process_ends_the_other(make: Make) -> None:
    run = make("bug", do="bug", on=0, at=3)
    with started(run) as processes:
        assert codes(processes) == [FAILED, FAILED]
    assert (run.state.status, run.state.failure, run.state.reason) == ("failed", "bug", "KeyError: 'n_heads'")


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_process_that_falls_silent_ends_the_other(make: Make, until: Until, frozen: int) -> None:
    """As on a machine that has gone dark: nothing closes its connections."""
    run = make("dark", steps=10005)
    with started(run, SILENCE=3, GRACE=1) as processes:
        until(begun(run))
        processes[frozen].send_signal(signal.SIGSTOP)
        assert processes[1 - frozen].wait() == FAILED
        if frozen == 1:
            assert (run.state.status, run.state.failure) == ("lost", "interrupted")
            assert run.state.reason == "process 1 of 2 sends no heartbeat"


def test_a_run_that_is_held_is_left_alone_by_all(make: Make) -> None:
    run = make("held")
    with Claim.take(run.path) or contextlib.nullcontext(), started(run) as processes:
        assert codes(processes) == [HELD, HELD]
    assert run.state == State()


def test_a_process_that_does_not_come_is_reported(make: Make) -> None:
    run = make("late", steps=3)
    with started(run, of_two=[0], ARRIVAL=3) as processes:
        assert processes[0].wait() == FAILED
    assert (run.state.status, run.state.reason) == ("lost", "process 1 of 2 did not arrive within 3 s")

"""`lab status SWEEP --seconds`: the seconds of runs and processes add up, and what isn't known is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.dispatch.process_clock import ProcessClock
from lab.dispatch.status.seconds import sweep_seconds, table
from lab.records import ProcessSeconds, RunFolder, State, read_process_seconds, write_process_seconds
from lab.training.progress.phase_clock import PhaseClock, part
from tests.warm import lab

Make = Callable[..., RunFolder]


def test_parts_count_on_their_own_by_both_clocks() -> None:
    wall, cpu = [10.0], [1.0]
    clock = PhaseClock({"training": 5.0}, {"training": 2.0}, now=lambda: wall[0], cpu=lambda: cpu[0])

    def spend(seconds: float, of_processor: float) -> None:
        wall[0], cpu[0] = wall[0] + seconds, cpu[0] + of_processor

    with clock.running():
        spend(2, 1)
        with part("start-up/data"):
            spend(4, 0.5)
            clock.enter("training")  # a phase that is entered inside of a part counts after it
            spend(1, 0.25)
        spend(8, 6)
    with part("start-up/model"):  # no run is counted here
        spend(3, 3)
    assert clock.seconds() == {"start-up": 2.0, "start-up/data": 5.0, "training": 5.0 + 8 + 3}
    assert clock.cpu_seconds() == {"start-up": 1.0, "start-up/data": 0.75, "training": 2.0 + 6 + 3}


def test_the_processor_seconds_of_a_part_are_those_that_it_worked() -> None:
    clock = PhaseClock()
    with clock.running(), part("work"):
        sum(range(2_000_000))
    assert 0 < clock.cpu_seconds()["work"] < 60
    assert clock.cpu_seconds()["work"] <= clock.seconds()["work"] * 2


def of_process(process: str, **seconds: float) -> ProcessSeconds:
    return ProcessSeconds(
        process=process, began=1.0, seconds={k: 2 * v for k, v in seconds.items()}, cpu_seconds=seconds
    )


def runs_of(make: Make) -> list[RunFolder]:
    runs = [make(f"caps/both/seed-{n}") for n in range(2)]
    for run in runs:
        cpu = {"start-up": 1.0, "training": 18.0, "validation": 1.0}
        run.state = State(status="finished", attempts=1, seconds={k: 3 * v for k, v in cpu.items()}, cpu_seconds=cpu)
    return runs


def test_the_share_that_is_not_training_counts_all_processes(make: Make) -> None:
    processes = [of_process("submit", start=3.0, planning=1.0), of_process("worker", start=2.0, runs=44.0, waiting=0.5)]
    sweep = sweep_seconds(runs_of(make), processes)
    parts = {item.name: item.cpu_seconds for item in sweep.parts}
    assert parts["worker around runs"] == 44.0 - 2 * 20.0
    assert "worker runs" not in parts, "they would count twice"
    assert sweep.cpu_seconds == 3 + 1 + 2 + 44 + 0.5
    assert sweep.not_training == pytest.approx(1 - 36 / 50.5)
    assert "2 runs, 50.5 processor seconds, of which 28.7% are not training." in table(sweep)


def test_a_killed_worker_that_recorded_less_than_its_runs_takes_nothing_away(make: Make) -> None:
    sweep = sweep_seconds(runs_of(make), [of_process("worker", start=2.0, runs=20.0)])
    assert sweep.cpu_seconds == 42.0


def test_runs_of_earlier_versions_make_the_share_unknown(make: Make) -> None:
    runs = runs_of(make)
    runs[0].state = State(status="finished", attempts=1, seconds={"training": 9.0})
    sweep = sweep_seconds(runs, [])
    assert (sweep.cpu_seconds, sweep.not_training) == (None, None)
    assert {item.cpu_seconds for item in sweep.parts} == {None}
    assert "unknown" in table(sweep)


def test_the_seconds_of_a_process_are_written_and_read(tmp_path: Path) -> None:
    clock = ProcessClock("submit")
    clock.enter("planning")
    for _ in range(2):
        clock.write(tmp_path)
    (record,) = read_process_seconds(tmp_path)
    assert (record.process, set(record.seconds)) == ("submit", {"start", "planning"})
    (tmp_path / ".seconds" / "broken.json").write_text("{")
    assert read_process_seconds(tmp_path) == [record]
    write_process_seconds(tmp_path / "missing" / "sweep", record)  # a folder that isn't there costs nothing


def test_the_command_prints_a_table_or_json_and_refuses_what_it_cannot_do(tmp_path: Path, make: Make) -> None:
    runs_of(make)
    write_process_seconds(tmp_path / "caps", of_process("submit", planning=10.0))
    done = lab("status", "caps", "--seconds", "--root", str(tmp_path))
    assert "submit planning" in done.stdout
    assert "28.0% are not training" in done.stdout
    done = lab("status", "caps", "--seconds", "--json", "--root", str(tmp_path))
    assert json.loads(done.stdout)["not_training"] == pytest.approx(0.28)
    for arguments in (["--seconds"], ["caps", "--seconds", "--watch"]):
        done = lab("status", *arguments, "--root", str(tmp_path))
        assert (done.returncode, "--seconds" in done.stderr) == (2, True)

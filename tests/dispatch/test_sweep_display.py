"""A sweep in progress can be watched, with a terminal and without."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lab.dispatch.status import display
from lab.dispatch.status.display import SweepDisplay
from lab.dispatch.status.status import read_row
from lab.dispatch.status.table import duration, print_rows
from lab.dispatch.worker.claim import Claim
from lab.records import Progress, RunFolder, State, Status

Make = Callable[..., RunFolder]
Until = Callable[..., None]


def progress(step: int) -> Progress:
    return Progress(step=step, steps=100, tokens=1000 * step, loss=2.5, tokens_per_second=500.0)


def hold(run: RunFolder, step: int) -> None:
    if not (run.path / ".claims").exists():
        Claim.take(run.path)
    run.state = State(status="running", attempts=1, progress=progress(step))


def screen(height: int = 40) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, height=height, color_system=None)


def shown(runs: list[RunFolder], height: int = 40) -> str:
    console = screen(height)
    console.print(SweepDisplay(runs, console=console).render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_a_row_a_run(make: Make) -> None:
    running, failed = make("caps/both/seed-0"), make("caps/qk[bold]/seed-1")
    hold(running, 40)
    failed.state = State(status="failed", reason="KeyError: 'x'")
    lines = shown([running, failed]).splitlines()
    row = next(line for line in lines if "both" in line)
    for cell in ("running", "40/100", "2.5000", "500", "2:00"):
        assert cell in row
    assert any("qk[bold]" in line and "failed" in line for line in lines)
    assert "2 runs: 1 running, 1 failed" in lines
    assert "caps/qk[bold]/seed-1: failed, KeyError: 'x'" in lines


def test_a_table_that_does_not_fit_shows_what_matters_most(make: Make) -> None:
    runs = [make(f"caps/both/seed-{n}") for n in range(30)]
    for run in runs[:28]:
        run.state = State(status="finished")
    hold(runs[28], 40)
    text = shown(runs, height=15)
    assert len(text.splitlines()) <= 15
    assert "40/100" in text
    assert "queued" in text
    assert "30 runs: 1 running, 1 queued, 28 finished" in text


def test_without_a_terminal_changes_are_lines(make: Make) -> None:
    run, other = make("caps/both/seed-0"), make("caps/both/seed-1")
    watch = SweepDisplay([run, other], console=Console(file=io.StringIO()))
    watch.changes()
    assert watch.changes() == []
    hold(run, 1)
    assert watch.changes() == [
        "caps/both/seed-0  running  step 1/100 (1%)  loss 2.5000  500 tokens/s  3:18 to go",
    ]
    hold(run, 20)
    assert watch.changes() == [], "less than a quarter of the way is no news"
    hold(run, 51)
    assert [line.split("  ")[2] for line in watch.changes()] == ["step 51/100 (51%)"]
    run.state = State(status="failed", reason="KeyError: 'n_heads'", progress=progress(60))
    assert watch.changes()[0].endswith("KeyError: 'n_heads'")


@pytest.mark.parametrize("status", ["finished", "diverged", "failed", "preempted", "lost"])
def test_the_last_change_is_printed_before_the_display_ends(
    make: Make, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "_LINES_SECONDS", 60.0)
    run = make("caps/both/seed-0")
    console = Console(file=io.StringIO(), width=40)
    with SweepDisplay([run], console=console):
        run.state = State(status=status, reason="a reason longer than the width of the console", progress=progress(100))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"caps/both/seed-0  {status}")


def test_with_a_terminal_the_table_is_live(make: Make, until: Until) -> None:
    run, console = make("caps/both/seed-0"), screen()
    assert isinstance(console.file, io.StringIO)
    file = console.file
    with SweepDisplay([run], console=console):
        until(lambda: "queued" in file.getvalue())
        run.state = State(status="finished", progress=progress(100))
        until(lambda: "100/100" in file.getvalue())


def test_waiting_ends_when_nothing_is_going_on_or_waiting_to(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [make(f"caps/both/seed-{n}") for n in range(3)]
    for run, status in zip(runs, ("finished", "failed", "queued"), strict=True):
        run.state = State(status=status)  # type: ignore[arg-type]
    slept = []

    def sleep(_: float) -> None:
        slept.append(runs[2].state.status)
        runs[2].state = State(status="diverged" if len(slept) == 2 else "preempted")

    monkeypatch.setattr("lab.dispatch.status.display.time.sleep", sleep)
    SweepDisplay(runs, console=screen()).wait()
    assert slept == ["queued", "preempted"]


def test_a_status_that_goes_to_a_file_loses_nothing(make: Make, tmp_path: Path) -> None:
    runs = [make(f"caps/{'an_arm_with_quite_a_long_name' * 2}/seed-{n}") for n in range(60)]
    hold(runs[0], 40)
    runs[1].state = State(status="lost", reason="no heartbeat " * 20)
    console = Console(file=io.StringIO(), width=80, height=10)
    broken = [(tmp_path / "caps/torn/seed-0", "run.json: missing")]
    print_rows([read_row(run) for run in runs], broken, console=console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert sum("an_arm_with_quite_a_long_name" * 2 in line and "queued" in line for line in lines) == 58
    assert "60 runs: 1 running, 1 lost, 58 queued" in lines
    assert any(line.endswith("no heartbeat " * 20) for line in lines)
    assert lines[-1].endswith("caps/torn/seed-0: broken, run.json: missing")


def test_a_folder_that_vanishes_does_not_end_the_display(make: Make) -> None:
    run, other = make("caps/both/seed-0"), make("caps/both/seed-1")
    watch = SweepDisplay([run, other], console=screen())
    (run.path / "run.json").unlink()
    assert [row.run for row in watch.rows()] == [other.name]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (185, "3:05"), (7385, "2:03:05"), (273600, "3 d 4 h")],
)
def test_durations_are_shown_in_readable_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize("width", [80, 150])
def test_a_clusters_runs_are_readable_on_any_screen(make: Make, width: int) -> None:
    running, waits, lost = (make(f"caps/window=256/seed-{n}") for n in range(3))
    hold(running, 40)
    running.state = running.state.replace(heartbeat=time.time() - 3)
    lost.state = State(status="lost", failure="node_lost", reason="job 41_2 lost its node n3")
    rows = [
        replace(read_row(running), job="41_0", job_state="RUNNING"),
        replace(read_row(waits), job="41_1", job_state="PENDING", waits_for="QOSMaxJobsPerUserLimit"),
        replace(read_row(lost), job="41_2", job_state="NODE_FAIL"),
    ]
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=40, color_system=None)
    print_rows(rows, notes=["Slurm's accounting doesn't answer"], console=console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    for seed, cells in enumerate(
        (
            ("window=256", "running", "41_0", "40/100", "500", "2:00", "seen 3 s ago"),
            ("queued", "41_1", "QOSMaxJobsPerUserLimit"),
            ("lost", "41_2", "node lost"),
        )
    ):
        line = next(line for line in lines if f"41_{seed}" in line and "job 41_2" not in line)
        for cell in cells:
            assert cell in line
        assert len(line) <= width
    assert "caps/window=256/seed-2: lost (node lost), job 41_2 lost its node n3" in lines
    assert lines[-1] == "note: Slurm's accounting doesn't answer"

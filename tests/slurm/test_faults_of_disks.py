"""A disk that is full when a checkpoint is to be written fails the run with that reason, and harms nothing there is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.records import RunFolder
from lab.training.checkpoints import verified
from tests.slurm.cluster import Cluster
from tests.slurm.evidence import Result, check
from tests.slurm.workbench import Workbench

pytestmark = pytest.mark.slow
LEFT = 150_000  # bytes: room for a state and some points of a curve, but not for half a checkpoint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"A small file system can't be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> Path:
    """Leave LEFT bytes; the file that takes up the rest."""
    ballast = place / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(shutil.disk_usage(place).free - LEFT))
    return ballast


def test_a_full_disk_fails_the_run_and_leaves_its_last_checkpoint(
    cluster: Cluster, shared: Path, tmp_path: Path, small_disk: Path, references: dict[int, Result]
) -> None:
    bench = Workbench(tmp_path / "bench", cluster.environment(), root=small_disk / "runs")
    bench.pace(0.5)
    bench.submit(bench.sweep("full"))
    folder = bench.run("full")
    cluster.wait(lambda: len(verified.list_checkpoints(folder)) == 2, "second checkpoint")
    ballast = fill(small_disk)
    before = verified.list_checkpoints(folder)
    run = RunFolder(folder)
    cluster.wait(lambda: run.state.status != "running", "end of the attempt")
    assert (run.state.status, run.state.failure) == ("failed", "disk_full")
    last = verified.newest(folder)
    assert last is not None
    assert last in before
    assert not list((folder / "checkpoints").glob(".*")), "half a checkpoint takes up the room that is missing"
    (row,) = bench.status("full")["runs"]
    assert (row["status"], row["failure"]) == ("failed", "disk_full")
    assert row["attempts"] == 1

    os.truncate(ballast, 0)
    bench.pace(None)
    bench.lab("retry", "full")
    cluster.wait(lambda: run.state.ended, "end of the run")
    check(folder, references[0], attempts=2)
    assert bench.trained(folder)[1] == 48 - verified.step_of(last)

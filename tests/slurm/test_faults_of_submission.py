"""However a submission is cut short or doubled, each run is sent once, and trained once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from lab.records import RunFolder
from tests.slurm.cluster import Cluster
from tests.slurm.evidence import Result, check
from tests.slurm.killed import killed_again_and_again
from tests.slurm.process import PATIENCE
from tests.slurm.workbench import Workbench, slurm

pytestmark = pytest.mark.slow


def test_a_submission_that_is_killed_again_and_again_sends_each_run_once(
    fragile_cluster: Cluster, tmp_path: Path
) -> None:
    killed_again_and_again(fragile_cluster, tmp_path, runs=16, per_job=2)


def test_two_submissions_at_once_without_accounting_send_each_run_once(
    fragile_cluster: Cluster, tmp_path: Path, references: dict[int, Result]
) -> None:
    bench = Workbench(tmp_path / "bench", fragile_cluster.environment())
    bench.sweep("both", range(4))
    fragile_cluster.stop_accounting()
    processes = [bench.start("submit", "both", *slurm("runs_per_job=2")) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    sent = [int(n) for out, _ in said for n in re.findall(r"(\d+) runs? in \d+ jobs?", out)]
    assert sum(sent) == 4, said
    shown = bench.status("both")
    assert sum(shown["counts"].values()) == 4
    runs = [bench.run("both", seed) for seed in range(4)]
    fragile_cluster.wait(lambda: all(RunFolder(run).state.ended for run in runs), "end of the runs")
    assert bench.status("both")["counts"] == {"finished": 4}
    fragile_cluster.start_accounting()
    for seed, run in enumerate(runs):
        check(run, references[seed], attempts=1)
    names = Counter(row["NAME"] for row in fragile_cluster.squeue() if row["NAME"].startswith("lab-both-"))
    assert sum(names.values()) == 2

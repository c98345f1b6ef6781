"""However a submission is cut short or doubled, each run is sent once, and trained once."""

from __future__ import annotations

import os
import re
import signal
import stat
from collections import Counter
from pathlib import Path

import pytest

from lab.records import RunFolder
from tests.slurm.cluster import Cluster
from tests.slurm.evidence import Result, attempts_logged, check, steps_recorded
from tests.slurm.packages import program
from tests.slurm.process import PATIENCE
from tests.slurm.workbench import Workbench, slurm

pytestmark = pytest.mark.slow

# Stands before the real sbatch in PATH, and kills who called it at the N-th call: before Slurm has the job; after; or
# before, and yet the job gets there, as the call outlives the caller.
SBATCH = """#!/bin/sh
case " $* " in *" --test-only "*) exec {sbatch} "$@" ;; esac
echo >> {folder}/calls
calls=$(wc -l < {folder}/calls)
[ "$calls" = "$KILL_AT" ] || exec {sbatch} "$@"
case $KILL_WHEN in
    before) kill -9 $PPID ;;
    after) {sbatch} "$@"; kill -9 $PPID ;;
    outlives) kill -9 $PPID; sleep 1; exec {sbatch} "$@" ;;
esac
"""
RUNS, PER_JOB, SHORT = 200, 25, {"train.tokens": 256, "schedule.warmup_tokens": 128}


class Killer:
    """A folder for PATH whose sbatch kills."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        script = folder / "sbatch"
        script.write_text(SBATCH.format(sbatch=program("sbatch"), folder=folder))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def environment(self, at: int, when: str) -> dict[str, str]:
        """To kill at the `at`-th call from now on."""
        calls = self._folder / "calls"
        so_far = len(calls.read_text().splitlines()) if calls.exists() else 0
        path = os.pathsep.join((str(self._folder), os.environ["PATH"]))
        return {"PATH": path, "KILL_AT": str(so_far + at), "KILL_WHEN": when}


def test_a_submission_that_is_killed_again_and_again_sends_each_run_once(cluster: Cluster, tmp_path: Path) -> None:
    bench = Workbench(tmp_path / "bench", cluster.environment())
    bench.sweep("many", range(RUNS), **SHORT)
    killer = Killer(tmp_path / "bin")
    options = ("many", *slurm(f"runs_per_job={PER_JOB}"))
    with cluster.configured(MaxArraySize="2"):  # two jobs an array: four calls of sbatch
        for at, when in ((1, "after"), (1, "before"), (2, "outlives")):
            done = bench.lab("submit", *options, code=-signal.SIGKILL, more=killer.environment(at, when))
            assert "nothing to do" not in done.stdout
        last = bench.lab("submit", *options).stdout
    assert f"{RUNS} runs" not in last
    runs = [RunFolder(bench.run("many", seed)) for seed in range(RUNS)]
    cluster.wait(lambda: all(run.state.ended for run in runs), "end of 200 runs")
    assert Counter(run.state.status for run in runs) == {"finished": RUNS}
    assert Counter(run.state.attempts for run in runs) == {1: RUNS}
    assert {len(list((run.path / ".claims").iterdir())) for run in runs} == {1}
    assert {attempts_logged(run.path) for run in runs} == {1}
    assert all(steps_recorded(run.path) == [1, 2] for run in runs)
    assert "nothing to do" in bench.lab("submit", *options).stdout


def test_two_submissions_at_once_without_accounting_send_each_run_once(
    cluster: Cluster, tmp_path: Path, references: dict[int, Result]
) -> None:
    bench = Workbench(tmp_path / "bench", cluster.environment())
    bench.sweep("both", range(4))
    cluster.stop_accounting()
    processes = [bench.start("submit", "both", *slurm("runs_per_job=2")) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    sent = [int(n) for out, _ in said for n in re.findall(r"(\d+) runs? in \d+ jobs?", out)]
    assert sum(sent) == 4, said
    shown = bench.status("both")
    assert sum(shown["counts"].values()) == 4
    runs = [bench.run("both", seed) for seed in range(4)]
    cluster.wait(lambda: all(RunFolder(run).state.ended for run in runs), "end of the runs")
    assert bench.status("both")["counts"] == {"finished": 4}
    cluster.start_accounting()
    for seed, run in enumerate(runs):
        check(run, references[seed], attempts=1)
    names = Counter(row["NAME"] for row in cluster.squeue() if row["NAME"].startswith("lab-both-"))
    assert sum(names.values()) == 2

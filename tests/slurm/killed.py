"""A `lab submit` that is killed while it sends: at any of its calls of sbatch, before the call, after it, or in it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lab.dispatch.launchers.slurm.send import journal, submission
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.records import RunFolder, find_runs
from tests.dispatch.fakes import FAKE_WORKER
from tests.slurm.cluster import Cluster
from tests.slurm.evidence import attempts_logged, steps_recorded
from tests.slurm.packages import program
from tests.slurm.workbench import Workbench, slurm

Moment = Literal["before", "after", "outlives"]
HELD = {"hold": True}

# Stands before the real sbatch in PATH, and kills who called it at the N-th call: before Slurm has the job; after; or
# before, and yet the job gets there, as the call outlives the caller.
_SBATCH = """#!/bin/sh
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

SEND = f"""
import sys
from pathlib import Path
from lab.dispatch.launchers.slurm.send import submission
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.records import find_runs
root = Path(sys.argv[1])
settings = Settings(sbatch={HELD!r})
print(submission.send(find_runs(root), root, "caps", settings, worker={FAKE_WORKER!r}).describe())
"""
"""Sends all runs below a root, as jobs that are held."""


class Killer:
    """A folder for PATH whose sbatch kills."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        script = folder / "sbatch"
        script.write_text(_SBATCH.format(sbatch=program("sbatch"), folder=folder))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def environment(self, at: int, when: Moment) -> dict[str, str]:
        """To kill at the `at`-th call from now on."""
        calls = self._folder / "calls"
        so_far = len(calls.read_text().splitlines()) if calls.exists() else 0
        path = os.pathsep.join((str(self._folder), os.environ["PATH"]))
        return {"PATH": path, "KILL_AT": str(so_far + at), "KILL_WHEN": when}


def killed_once(
    cluster: Cluster, make: Callable[[str], RunFolder], root: Path, when: Moment, *, per_array: int
) -> None:
    """20 arrays are sent by a process that dies around its 13th call of sbatch; a second one sends the rest."""
    runs = 20 * per_array
    names = [make(f"caps/both/seed-{n}").name for n in range(runs)]
    environment = {**os.environ, **Killer(root / "bin").environment(13, when)}
    with cluster.configured(MaxArraySize=str(per_array)):
        done = subprocess.run([sys.executable, "-c", SEND, str(root)], env=environment)
        assert done.returncode == -signal.SIGKILL
        half = per_array * (12 if when == "before" else 13)
        cluster.wait(lambda: len(cluster.live()) == half, "first half of the jobs")
        again = _send_held(root)
        assert (again.n_runs, len(again.queued_runs)) == (runs - half, half)
        jobs = {
            job: task.runs
            for record in journal.records(root)
            for job, task in zip(record.jobs, record.tasks, strict=False)
        }
        assert len(jobs) == runs
        assert sorted(cluster.live()) == sorted(jobs)
        assert sorted(name for task in jobs.values() for name in task) == sorted(names)
        for record in journal.records(root):
            for job in record.jobs:  # the jobs of the call that was cut short have something to start from, too
                assert (record.folder / f"{job}_submitted.pkl").is_file()
        assert _send_held(root).describe() == f"{runs} runs in the queue already"


def killed_again_and_again(cluster: Cluster, folder: Path, *, runs: int, per_job: int) -> None:
    """Three submissions of a sweep in eight jobs are killed, each at another call and moment; a fourth sends the rest.

    The runs are trained for two steps each.
    """
    assert runs == 8 * per_job
    bench = Workbench(folder / "bench", cluster.environment())
    bench.sweep("many", range(runs), **{"train.tokens": 256, "schedule.warmup_tokens": 128})
    killer = Killer(folder / "bin")
    options = ("many", *slurm(f"runs_per_job={per_job}"))
    kills: tuple[tuple[int, Moment], ...] = ((1, "after"), (1, "before"), (2, "outlives"))
    with cluster.configured(MaxArraySize="2"):  # two jobs an array: four calls of sbatch
        for at, when in kills:
            done = bench.lab("submit", *options, code=-signal.SIGKILL, more=killer.environment(at, when))
            assert "nothing to do" not in done.stdout
        last = bench.lab("submit", *options).stdout
    assert f"{runs} runs" not in last
    found = [RunFolder(bench.run("many", seed)) for seed in range(runs)]
    cluster.wait(lambda: all(run.state.ended for run in found), f"end of {runs} runs")
    assert Counter(run.state.status for run in found) == {"finished": runs}
    assert Counter(run.state.attempts for run in found) == {1: runs}
    assert {len(list((run.path / ".claims").iterdir())) for run in found} == {1}
    assert {attempts_logged(run.path) for run in found} == {1}
    assert all(steps_recorded(run.path) == [1, 2] for run in found)
    assert "nothing to do" in bench.lab("submit", *options).stdout


def raced(cluster: Cluster, make: Callable[[str], RunFolder], root: Path, *, runs: int) -> None:
    """Three processes send the same runs at once, four to an array: one of them sends all."""
    for n in range(runs):
        make(f"caps/both/seed-{n}")
    with cluster.configured(MaxArraySize="4"):
        racing = [
            subprocess.Popen([sys.executable, "-c", SEND, str(root)], stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        said = [process.communicate()[0].strip() for process in racing]
        assert [process.returncode for process in racing] == [0, 0, 0]
        assert len(cluster.live()) == runs
        assert sorted(said)[1:] == [f"{runs} runs in the queue already"] * 2


def _send_held(root: Path) -> submission.SentJobs:
    return submission.send(find_runs(root), root, "caps", Settings(sbatch=HELD), worker=FAKE_WORKER)

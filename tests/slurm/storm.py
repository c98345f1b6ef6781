"""Many faults at the same time, each to a run of its own: waiting for a dead node to be noticed costs once.

`moved` is on n1, which dies, and `together` (two processes) on n1 and n2; the others are on n2, `preempted` on n3. The
controller is restarted under all of them first.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lab.records import RunFolder, State
from lab.training.checkpoints import verified
from tests.slurm.cluster import Cluster
from tests.slurm.evidence import step
from tests.slurm.workbench import Workbench

ARRAY = ("requeued", "out_of_time", "worker_killed", "damaged", "cancelled", "undisturbed")
SEEDS = {name: seed for seed, name in enumerate((*ARRAY, "preempted", "moved"))}
TOGETHER = "together"  # the run of two processes, which has seed 0 and therefore its own root
TWO = ("nodes=2", "tasks_per_node=1")
STILL, SLOW = 2.0, 1.0  # seconds a step: until all runs are under way, and until every fault has come


class Storm:
    """One storm. `noted` is what was seen on the way."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.noted: dict[str, Any] = {}
        self._one, self._two = (Workbench(folder / name, cluster.environment()) for name in ("one", "two"))
        self._one.sweep("array", [SEEDS[name] for name in ARRAY])
        self._one.sweep("preempted", [SEEDS["preempted"]])
        self._one.sweep("moved", [SEEDS["moved"]])
        self._two.sweep(TOGETHER)
        self.folders = {name: self._one.run("array", SEEDS[name]) for name in ARRAY}
        self.folders |= {name: self._one.run(name, SEEDS[name]) for name in ("preempted", "moved")}
        self.folders[TOGETHER] = self._two.run(TOGETHER)
        self._jobs: dict[str, str] = {}
        self._released: set[tuple[str, str]] = set()

    def run(self, calm: Workbench) -> dict[str, Any]:
        """From the submission to the end of all runs.

        Args:
            calm: where the sweep `together` is run on two nodes in peace, at last.
        Returns:
            plain values: `noted`, `folders`, `trained` (Workbench.trained of each) and `jobs` (states by sacct).
        """
        self._pace(STILL)
        self._submit()
        self._wait("second checkpoint of every run", lambda: all(map(_hittable, self.folders.values())))
        self._pace(SLOW)
        self._jobs = self._ask_for_jobs()
        self.noted["nodes"] = self._nodes()
        self.cluster.restart_controller()
        self.noted["attempts_after_restart"] = {name: self._state(name).attempts for name in self.folders}
        self._let_loose()
        self._wait("stop in time", lambda: self._state("out_of_time").status == "preempted")
        self._pace(None)
        others = [name for name in self.folders if name != "cancelled"]
        self._look_at_the_cancelled()
        calm.submit(TOGETHER, *TWO)
        self._wait("end of the runs", lambda: all(self._state(name).ended for name in others))
        self._wait("end of the cancelled run", lambda: self._state("cancelled").ended)
        calmly = RunFolder(calm.run(TOGETHER))
        self._wait("end of the calm run", lambda: calmly.state.ended)
        self.noted["nodes_at_last"] = self._nodes()
        return {
            "noted": self.noted,
            "folders": {name: str(folder) for name, folder in self.folders.items()},
            "trained": {name: self._one.trained(folder) for name, folder in self.folders.items() if name != TOGETHER}
            | {TOGETHER: self._two.trained(self.folders[TOGETHER])},
            "jobs": {name: self._accounted(job) for name, job in self._jobs.items()},
        }

    def _submit(self) -> None:
        """Nodes are filled from the first on; what must not be on one keeps away from it, and can still move."""
        calls = [
            (self._one, "moved", "sbatch.exclude='n2,n3'"),
            (self._two, TOGETHER, "sbatch.exclude=n3", *TWO),
            (self._one, "array", "signal_seconds=60", "sbatch.exclude='n1,n3'"),
            (self._one, "preempted", "partition=scavenge", "sbatch.nodelist=n3"),
        ]
        with ThreadPoolExecutor() as pool:
            for each in [pool.submit(bench.submit, *rest) for bench, *rest in calls]:
                each.result()

    def _ask_for_jobs(self) -> dict[str, str]:
        jobs = {}
        for bench in (self._one, self._two):
            for row in bench.status()["runs"]:
                jobs[str(bench.root / row["run"])] = row["job"]
        return {name: jobs[str(folder)] for name, folder in self.folders.items()}

    def _nodes(self) -> dict[str, str]:
        return {name: self.cluster.job(job)["NodeList"] for name, job in self._jobs.items()}

    def _let_loose(self) -> None:
        self.cluster.end_in(self._jobs["out_of_time"], 61)  # told 60 s before, and Slurm looks every 30 s
        self.cluster.kill_node("n1")
        self.noted["dead"] = _seen(self.folders["moved"])
        self.cluster.sbatch("--output=/dev/null", "--nodelist=n3", "--cpus-per-task=8", "--wrap", "true")
        self.cluster.run("scontrol", "requeue", self._jobs["requeued"])
        self.cluster.run("scontrol", "requeue", self._jobs["damaged"])
        self.cluster.run("scancel", self._jobs["cancelled"])
        self._kill_a_worker()
        self._damage()

    def _kill_a_worker(self) -> None:
        """After a step that no checkpoint holds."""
        folder = self.folders["worker_killed"]
        self._wait("step beyond a checkpoint", lambda: step(folder) > _checkpoint(folder))
        os.kill(int(self._state("worker_killed").pid or 0), signal.SIGKILL)
        self.noted["killed"] = _seen(folder)

    def _damage(self) -> None:
        """Cut the newest checkpoint short, while the job waits for its next start."""
        self.cluster.wait_for(self._jobs["damaged"], "PENDING")
        newest, before = verified.list_checkpoints(self.folders["damaged"])[:2]
        with newest.open("r+b") as file:
            file.truncate(newest.stat().st_size // 2)
        self.noted["damaged"] = {"newest": verified.step_of(newest), "before": verified.step_of(before)}

    def _look_at_the_cancelled(self) -> None:
        """An administrator's word stands until the user submits again."""
        job = self._jobs["cancelled"]
        self.cluster.wait_for_accounting(job, "CANCELLED")
        name = "/".join(self.folders["cancelled"].parts[-3:])
        row = next(row for row in self._one.status("array")["runs"] if row["run"] == name)
        self.noted["cancelled"] = {"state": self.cluster.state(job), "row": row}
        self.noted["sent_again"] = self._one.submit("array").stdout

    def _pace(self, seconds: float | None) -> None:
        for bench in (self._one, self._two):
            bench.pace(seconds)

    def _state(self, name: str) -> State:
        return RunFolder(self.folders[name]).state

    def _accounted(self, job: str) -> list[str]:
        rows = self.cluster.sacct("--duplicates", "--allocations", "--jobs", job)
        return [row["State"].split()[0] for row in rows]

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Until the condition holds; requeued jobs needn't sit out Slurm's hold meanwhile."""

        def holds() -> bool:
            for row in self.cluster.squeue("--states=PENDING"):
                key = (row["JOBID"], row["RESTARTS"])
                if row["REASON"] == "BeginTime" and key not in self._released:
                    self._released.add(key)
                    self.cluster.release(row["JOBID"])
            return condition()

        self.cluster.wait(holds, what)


def _hittable(folder: Path) -> bool:
    return len(verified.list_checkpoints(folder)) >= 2


def _checkpoint(folder: Path) -> int:
    return verified.step_of(verified.list_checkpoints(folder)[0])


def _seen(folder: Path) -> dict[str, int]:
    """How far a run has come, and at which step its newest checkpoint is."""
    return {"step": step(folder), "checkpoint": _checkpoint(folder)}

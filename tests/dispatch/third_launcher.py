"""A launcher as an installed package could bring it: a small batch system on this machine.

A call of `send` starts one queue process, which runs its jobs in turn, each in a worker process. A job is a file in
`<root>/<sweep>/.detached/`: which run, and the ids of the processes that are at it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import psutil

from lab.dispatch.launchers import base, options
from lab.dispatch.launchers.base import JobEnd, JobView, LauncherView, Request, SendResult
from lab.records import Failure, write_json
from lab.refusals import RequestError


@dataclass(frozen=True)
class DetachedOptions:
    """Options of a job: how `nice` it is, and the command of its worker."""

    nice: int = 0
    worker: str = f"{sys.executable} -m lab.dispatch.worker"


@dataclass(frozen=True)
class Job:
    """A job as its file has it, whose name is the job's id."""

    path: Path
    run: str
    queue: int
    worker: int | None = None
    cancelled: bool = False

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(path, **json.loads(path.read_bytes()))

    def write(self) -> None:
        write_json(self.path, {key: value for key, value in asdict(self).items() if key != "path"})

    def view(self) -> JobView:
        if self.worker is not None and _is_alive(self.worker):
            return JobView(self.path.stem, "R", "running", nodes="this machine")
        if self.worker is None and not self.cancelled and _is_alive(self.queue):
            return JobView(self.path.stem, "Q", "waiting", waits_for="its place in the queue")
        end = JobEnd(failure="cancelled", message="was deleted from the queue") if self.cancelled else JobEnd()
        return JobView(self.path.stem, "X", "ended", end=end)


def _is_alive(process: int) -> bool:
    """Good enough here: a process's id may be another one's later."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class DetachedLauncher(base.Launcher):
    name: ClassVar[str] = "detached"
    Options: ClassVar[type] = DetachedOptions
    remedies: ClassVar[Mapping[Failure, base.Remedy]] = {"time": base.Remedy(frozenset({"nice"}), "launcher.nice=0")}

    def __init__(self, options: DetachedOptions) -> None:
        self._options = options

    @classmethod
    def from_arguments(cls, arguments: base.LauncherArguments) -> Self:
        return cls(options.read(DetachedOptions, arguments, cls.name))

    def check(self, request: Request) -> None:
        if not 0 <= self._options.nice <= 19:
            raise RequestError(key="launcher.nice", given=self._options.nice, expected="0 to 19")

    def send(self, request: Request) -> SendResult:
        view = self.look(request.root, [run.name for run in request.runs])
        jobs = [view.job_of(run.name) for run in request.runs]
        runs = [run for run, job in zip(request.runs, jobs, strict=True) if job is None or job.phase == "ended"]
        if not runs:
            return SendResult(("detached: nothing to send",))
        runs.sort(key=lambda run: len(run.record.needs))
        command = [sys.executable, __file__, str(request.root.resolve()), json.dumps(asdict(self._options))]
        for number, run in enumerate(runs):
            folder = request.root.resolve() / (request.sweep or run.path.parts[-3]) / f".{self.name}"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{time.time_ns()}-{number}.json"
            Job(path, run.name, os.getpid()).write()
            command.append(str(path))
        queue = subprocess.Popen(command, start_new_session=True)
        return SendResult((f"detached: {len(runs)} jobs in queue {queue.pid}",), has_jobs=True)

    @classmethod
    def look(cls, root: Path, runs: Collection[str]) -> LauncherView:
        sent: dict[str, list[str]] = {}
        jobs = [Job.read(path) for path in sorted(root.glob(f"*/.{cls.name}/*.json"))]
        for job in jobs:
            sent.setdefault(job.run, []).append(job.path.stem)
        return LauncherView(sent, {job.path.stem: job.view() for job in jobs if job.run in runs})

    @classmethod
    def cancel(cls, root: Path, jobs: Sequence[str]) -> str | None:
        for path in (path for job in jobs for path in root.glob(f"*/.{cls.name}/{job}.json")):
            job = Job.read(path)
            replace(job, cancelled=True).write()
            if job.worker is not None and _is_alive(job.worker):
                os.kill(job.worker, signal.SIGTERM)
        return None

    @classmethod
    def output_files(cls, root: Path, job: str) -> list[Path]:
        return list(root.glob(f"*/.{cls.name}/{job}.log"))


def _run_jobs(root: Path, options: DetachedOptions, jobs: Sequence[Path]) -> Iterator[int]:
    """What the queue process does."""
    for path in jobs:
        replace(Job.read(path), queue=os.getpid()).write()
    for path in jobs:
        if not (job := Job.read(path)).cancelled:
            command = ["nice", "-n", str(options.nice), *shlex.split(options.worker), str(root / job.run)]
            with open(path.with_suffix(".log"), "ab") as log:
                worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            replace(job, worker=worker.pid).write()
            yield worker.wait()


if __name__ == "__main__":
    list(
        _run_jobs(Path(sys.argv[1]), DetachedOptions(**json.loads(sys.argv[2])), [Path(path) for path in sys.argv[3:]])
    )

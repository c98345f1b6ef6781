"""What has been sent to SLURM: one file for each call of sbatch, in `<root>/<sweep>/.slurm/`, written before the call.

A call is known by the name that its job bears. So one that was cut short, before or after the controller took the job,
is found again: nothing is sent twice, and nothing is taken for sent that wasn't. How runs stand is not in here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lab.dispatch.worker.claim import STALE_AFTER, Claim
from lab.records import write_json
from lab.refusals import RequestError

FOLDER = ".slurm"
VERSION = 1

Kind = Literal["runs", "next"]


@dataclasses.dataclass(frozen=True)
class JobTask:
    """What one job, or one task of an array, is to do.

    Attributes:
        runs: their names below the root, in order.
        retry: of those that stood as failed and are to be tried once more: the attempts made of them by then.
    """

    runs: tuple[str, ...]
    retry: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Record:
    """One call of sbatch.

    Attributes:
        path: its file.
        token: in its job's name, and in no other's.
        group: the same for all that one `lab submit` sent.
        kind: `runs`, or `next` for a job that sends the next stage of a sweep that tunes.
        name: of the job.
        created: unix seconds.
        settings: of the launcher, as they were.
        tasks: of the array, by index; a single one is a plain job.
        depends: what Slurm was told that it waits for.
        job: Slurm's id, of the whole array; None until it is known.
        void: why it never came to be, or was given up; None where it stands.
        then: of a `next` job: what it needs to know besides; see `lab.dispatch.launchers.slurm.send.next_stage`.
    """

    path: Path
    token: str
    group: str
    sweep: str
    kind: Kind
    name: str
    created: float
    user: str
    host: str
    settings: Mapping[str, Any]
    tasks: tuple[JobTask, ...]
    depends: str | None = None
    job: str | None = None
    void: str | None = None
    then: Mapping[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """Where its jobs' logs are, and what submitit keeps."""
        return self.path.with_suffix("")

    @property
    def jobs(self) -> list[str]:
        """Slurm's id of each task: `12_0`, `12_1`, …, or `12` where it is no array; empty before it is known."""
        if self.job is None or self.void is not None:
            return []
        return [self.job] if len(self.tasks) == 1 else [f"{self.job}_{index}" for index in range(len(self.tasks))]

    def write(self) -> None:
        """Put it on disk, in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {key: value for key, value in dataclasses.asdict(self).items() if key != "path"}
        write_json(self.path, {"version": VERSION, **content})

    def sent(self, job: str) -> Record:
        """The record with the job's id, written."""
        return self._changed(job=job)

    def given_up(self, reason: str) -> Record:
        """The record of a call that came to nothing, written. Should its job start after all, it does nothing."""
        return self._changed(void=reason)

    def _changed(self, **changes: Any) -> Record:
        changed = dataclasses.replace(self, **changes)
        changed.write()
        return changed


def folder(root: Path, sweep: str) -> Path:
    """Where a sweep's records are."""
    return root / sweep / FOLDER


def new_group() -> str:
    """A name for all that one `lab submit` sends."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)


def intend(
    root: Path,
    sweep: str,
    group: str,
    tasks: Sequence[JobTask],
    settings: Mapping[str, Any],
    *,
    kind: Kind = "runs",
    depends: str | None = None,
    then: Mapping[str, Any] | None = None,
) -> Record:
    """Write down what is about to be sent."""
    token = secrets.token_hex(6)
    plain = re.sub(r"[^A-Za-z0-9_.=-]+", "-", sweep)[:40]
    record = Record(
        path=folder(root, sweep) / f"{token}.json",
        token=token,
        group=group,
        sweep=sweep,
        kind=kind,
        name=f"lab-{plain}-{token}" if kind == "runs" else f"lab-{plain}-next-{token}",
        created=time.time(),
        user=getpass.getuser(),
        host=socket.gethostname(),
        settings=settings,
        tasks=tuple(tasks),
        depends=depends,
        then=then,
    )
    record.write()
    return record


def read(path: Path) -> Record:
    """A record from its file.

    Raises:
        RequestError: it can't be read; what may have been sent is then unknown.
    """
    try:
        content = json.loads(path.read_bytes())
        if content.pop("version") != VERSION:
            raise ValueError("of another version")
        tasks = tuple(JobTask(tuple(task["runs"]), task["retry"]) for task in content.pop("tasks"))
        return Record(path=path, tasks=tasks, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{path}: this record of what was sent to SLURM can't be read ({error}); once `squeue --me` shows no job "
            "of this sweep, delete the file"
        ) from None


def records(root: Path, sweep: str | None = None) -> list[Record]:
    """What was sent for one sweep, or for all below the root; the oldest first.

    Raises:
        RequestError: one can't be read.
    """
    places = [folder(root, sweep)] if sweep is not None else sorted(root.glob(f"*/{FOLDER}"))
    found = [read(path) for place in places for path in place.glob("*.json")]
    return sorted(found, key=lambda record: (record.created, record.token))


def jobs_of(root: Path | str, sweep: str | None = None) -> dict[str, list[str]]:
    """Run, by its name below the root → the ids of its jobs (`12`, or `12_3` of an array), the oldest first.

    Args:
        sweep: only runs of this one: those in its folder, and those of other sweeps that were sent for it.
    """
    found: dict[str, list[str]] = {}
    for record in records(Path(root)):
        for task, job in zip(record.tasks, record.jobs, strict=False):
            for run in task.runs:
                if sweep is None or record.sweep == sweep or run.startswith(f"{sweep}/"):
                    found.setdefault(run, []).append(job)
    return found


def output_files(root: Path | str, sweep: str, job: str) -> list[Path]:
    """The files with what a job of a sweep said outside of its runs, what Slurm itself said in them included."""
    found = []
    for record in records(Path(root), sweep):
        if job in record.jobs:
            found += sorted(record.folder.glob(f"{job}_*_log.*"))
    return found


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """For the length of the context no other process sends runs of this root to SLURM; waits for one that does."""
    place = root / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    while (claim := Claim.take(place)) is None:
        time.sleep(0.1)
    ended = threading.Event()

    def beat() -> None:  # a busy controller may take longer over one sbatch than a silent claim stands
        while not ended.wait(STALE_AFTER / 20):
            with contextlib.suppress(OSError):
                claim.beat()

    thread = threading.Thread(target=beat, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        claim.release()

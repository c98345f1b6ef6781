"""The journal of what was sent to Slurm: one file for each call of sbatch, written before the call.

The files are in `<root>/<sweep>/.slurm/`; `lab.records` reads and writes them. Each call has a job name of its own, by
which an interrupted call can be looked up in the queue. So no run is sent twice, and no run counts as sent that wasn't.
The journal doesn't hold the state of runs.
"""

from __future__ import annotations

import contextlib
import getpass
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lab.dispatch.worker.claim import STALE_AFTER, Claim
from lab.records import (
    JOURNAL,
    BrokenRecord,
    SubmissionRecord,
    SubmittedTask,
    read_submission,
    submission_path,
    submission_paths,
    write_submission,
)


def new_group() -> str:
    """A new name for everything that one `lab submit` sends."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)


def add(
    root: Path,
    sweep: str,
    group: str,
    tasks: Sequence[SubmittedTask],
    settings: Mapping[str, object],
    *,
    kind: Literal["runs", "next"] = "runs",
    depends: str | None = None,
    then: Mapping[str, bool] | None = None,
) -> SubmissionRecord:
    """Write down a submission that is about to be sent. The arguments are fields of `SubmissionRecord`."""
    token = secrets.token_hex(6)
    plain = re.sub(r"[^A-Za-z0-9_.=-]+", "-", sweep)[:40]
    record = SubmissionRecord(
        path=submission_path(root, sweep, token),
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
    write_submission(record)
    return record


def mark_sent(record: SubmissionRecord, job: str) -> SubmissionRecord:
    """Write down the id that Slurm gave to a submission's job; the changed record."""
    return _written(replace(record, job=job))


def mark_void(record: SubmissionRecord, reason: str) -> SubmissionRecord:
    """Write down that a submission failed; the changed record. Should its job start after all, it does nothing."""
    return _written(replace(record, void=reason))


def read(path: Path) -> SubmissionRecord:
    """Read a record from its file.

    Raises:
        RequestError: it can't be read; what may have been sent is then unknown.
    """
    try:
        return read_submission(path)
    except BrokenRecord as error:
        fix = "once `squeue --me` shows no job of this sweep, delete the file"
        raise error.within(part="this record of what was sent to Slurm").with_fix(fix) from None


def records(root: Path, sweep: str | None = None) -> list[SubmissionRecord]:
    """What was sent for one sweep, or for every sweep below the root; the oldest first.

    Raises:
        RequestError: a record can't be read.
    """
    submissions = [read(path) for path in submission_paths(root, sweep)]
    return sorted(submissions, key=lambda record: (record.created, record.token))


def jobs_of(root: Path) -> dict[str, list[str]]:
    """Name of each run below the root → the ids of its jobs (`12`, or `12_3` of an array), the oldest first."""
    jobs: dict[str, list[str]] = {}
    for record in records(root):
        for task, job in zip(record.tasks, record.jobs, strict=False):
            for run in task.runs:
                jobs.setdefault(run, []).append(job)
    return jobs


@contextlib.contextmanager
def lock(root: Path) -> Iterator[None]:
    """A context in which no other process sends runs of this root to Slurm. It waits for one that does."""
    folder = root / JOURNAL
    folder.mkdir(parents=True, exist_ok=True)
    while (claim := Claim.take(folder)) is None:
        time.sleep(0.1)
    ended = threading.Event()

    def beat() -> None:  # with a busy controller one sbatch may take longer than a claim without a heartbeat lasts
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


def _written(record: SubmissionRecord) -> SubmissionRecord:
    write_submission(record)
    return record

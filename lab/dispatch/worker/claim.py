"""One writer for each run folder, among processes and hosts that share nothing but the folder.

Claims are numbered files, and the one with the highest number counts; `lab.records` reads and writes them. Creating a
file that must not exist yet is atomic on every file system. So when several processes want to follow claim n, which
was released or abandoned, exactly one of them creates claim n + 1. No claim is ever deleted or renamed: otherwise a
slow process could remove the lock of a newer holder.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lab.dispatch.worker.process import Process
from lab.records import BrokenRecord, ClaimRecord, claim_path, create_claim, newest_claim, read_claim, write_claim
from lab.refusals import RequestError

STALE_AFTER = 120.0  # seconds without a heartbeat after which a claim on another host counts as abandoned


@dataclass(frozen=True)
class Holder:
    """The process that holds a run, and the seconds since its last heartbeat."""

    process: Process
    age: float


class Claim:
    """The right to write in a run folder, held by this process until it is released or the process ends."""

    def __init__(self, folder: Path, number: int, record: ClaimRecord) -> None:
        """For `take`; a claim is not made otherwise."""
        self.folder = folder
        self.number = number
        self._record = record

    @classmethod
    def take(cls, folder: Path, *, stale_after: float = STALE_AFTER) -> Claim | None:
        """Claim the run; None if another process, or this one, holds it.

        Args:
            folder: the run folder.
            stale_after: seconds without a heartbeat after which a holder whose process can't be seen from here counts
                as gone. A holder on this machine is judged by whether its process lives, and by nothing else: one that
                slept with its laptop still holds.
        """
        me, number = Process.this(), newest_claim(folder)
        while True:
            if number and _holder(claim_path(folder, number), stale_after) is not None:
                return None
            number += 1
            record = ClaimRecord(me.host, me.pid, me.mark, taken=time.time())
            with contextlib.suppress(FileExistsError):
                create_claim(claim_path(folder, number), record)
                return cls(folder, number, record)

    @property
    def path(self) -> Path:
        """The claim's own file."""
        return claim_path(self.folder, self.number)

    def beat(self) -> bool:
        """Record that this process is still at work.

        Returns:
            False if another process has taken the run over, or the folder is gone: this one must stop writing.
        """
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return not claim_path(self.folder, self.number + 1).exists()

    def release(self) -> None:
        """Release the run, so that another process can claim it at once."""
        self._record = replace(self._record, released=time.time())
        write_claim(self.path, self._record)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextlib.contextmanager
def writing(folder: Path, *, patience: float = 60.0) -> Iterator[None]:
    """A context with the right to write in a run folder.

    Args:
        patience: seconds to wait for a process that holds it.
    Raises:
        RequestError: another process still holds it.
    """
    end = time.monotonic() + patience
    while (claim := Claim.take(folder)) is None:
        if time.monotonic() > end:
            raise RequestError(f"{folder}: another process holds the run, such as its worker; nothing was written")
        time.sleep(0.1)
    with claim:
        yield


def holder(folder: Path, *, stale_after: float = STALE_AFTER) -> Holder | None:
    """The process that holds the run; None if the run can be claimed."""
    number = newest_claim(folder)
    return _holder(claim_path(folder, number), stale_after) if number else None


def last_taken(folder: Path) -> float | None:
    """When the newest claim on a run was taken, in unix seconds; None if there is none, or it can't be read."""
    with contextlib.suppress(OSError, BrokenRecord):
        claim = read_claim(claim_path(folder, newest_claim(folder)))
        return None if claim is None else claim.taken
    return None


def _holder(path: Path, stale_after: float) -> Holder | None:
    """The holder by the claim in this file; None if it was released or abandoned."""
    claim, age = read_claim(path), max(0.0, time.time() - path.stat().st_mtime)
    if claim is None:  # it is being written at this moment, or its writer was killed then
        return Holder(Process("", 0, ""), age) if age < stale_after else None
    if claim.released is not None:
        return None
    process = Process(claim.host, claim.pid, claim.mark)
    is_alive = process.alive()
    if is_alive is None:
        is_alive = age < stale_after
    return Holder(process, age) if is_alive else None

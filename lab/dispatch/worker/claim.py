"""One writer a run folder, over processes and hosts that share nothing but the folder.

Claims are numbered files `.claims/1`, `.claims/2`, …; the highest stands. Creating a file that mustn't exist yet is
atomic on every file system, so of any number of takers of a released or abandoned claim n exactly one creates n + 1.
Nothing is ever deleted or renamed: that is where lock files go wrong, when a slow taker removes a newer holder's lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.dispatch.worker.process import Process
from lab.records import BrokenRecord, claim_path, newest_claim, read_claim, write_json
from lab.refusals import RequestError

STALE_AFTER = 120.0  # seconds without a heartbeat after which a claim on another host counts as abandoned


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a run, and how many seconds ago it last gave a sign of life."""

    process: Process
    age: float


class Claim:
    """The right to write in a run folder, held by this process until it is released or the process ends."""

    def __init__(self, folder: Path, number: int) -> None:
        """For `take`; a claim is not made otherwise."""
        self.folder = folder
        self.number = number

    @classmethod
    def take(cls, folder: Path, *, stale_after: float = STALE_AFTER) -> Claim | None:
        """Claim the run; None if another process, or this one, holds it.

        Args:
            folder: the run folder.
            stale_after: seconds without a heartbeat after which a holder whose process can't be seen from here counts
                as gone. A holder on this machine is judged by whether its process lives, and by nothing else: one that
                slept with its laptop still holds.
        """
        claims = folder / ".claims"
        claims.mkdir(exist_ok=True)
        me = dataclasses.asdict(Process.this())
        number = _newest(claims)
        while True:
            if number and _standing(claims / str(number), stale_after) is not None:
                return None
            try:
                with open(claims / str(number + 1), "x", encoding="utf-8") as file:
                    json.dump({**me, "taken": time.time(), "released": None}, file)
                return cls(folder, number + 1)
            except FileExistsError:
                number += 1

    @property
    def path(self) -> Path:
        """The claim's own file."""
        return self.folder / ".claims" / str(self.number)

    def beat(self) -> bool:
        """Give a sign of life.

        Returns:
            False if another process has taken the run over, or the folder is gone: this one must not write any more.
        """
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return not (self.path.parent / str(self.number + 1)).exists()

    def release(self) -> None:
        """Let go of the run: the next taker need not wait."""
        content = json.loads(self.path.read_text(encoding="utf-8"))
        write_json(self.path, {**content, "released": time.time()})

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextlib.contextmanager
def writing(folder: Path, *, patience: float = 60.0) -> Iterator[None]:
    """The right to write in a run folder for a moment.

    Args:
        patience: seconds to wait for whoever holds it.
    Raises:
        RequestError: somebody still does.
    """
    end = time.monotonic() + patience
    while (claim := Claim.take(folder)) is None:
        if time.monotonic() > end:
            raise RequestError(f"{folder}: another process holds the run, such as its worker; nothing was written")
        time.sleep(0.1)
    with claim:
        yield


def holder(folder: Path, *, stale_after: float = STALE_AFTER) -> Holder | None:
    """Who holds the run; None if it is free to take."""
    claims = folder / ".claims"
    number = _newest(claims)
    return _standing(claims / str(number), stale_after) if number else None


def last_taken(folder: Path) -> float | None:
    """When the newest claim on a run was taken, in unix seconds; None if there is none, or it can't be read."""
    with contextlib.suppress(OSError, BrokenRecord):
        claim = read_claim(claim_path(folder, newest_claim(folder)))
        return None if claim is None else claim.taken
    return None


def _newest(claims: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return max((int(name) for name in os.listdir(claims) if name.isdecimal()), default=0)
    return 0


def _standing(path: Path, stale_after: float) -> Holder | None:
    """The holder by this claim if it stands; None if it is released or abandoned."""
    content, age = _read(path)
    if content is None:  # being written this moment, or its writer was killed in that moment
        return Holder(Process("", 0, ""), age) if age < stale_after else None
    if content["released"] is not None:
        return None
    process = Process(content["host"], content["pid"], content["mark"])
    alive = process.alive()
    if alive is None:
        alive = age < stale_after
    return Holder(process, age) if alive else None


def _read(path: Path) -> tuple[dict[str, Any] | None, float]:
    text, age = path.read_text(encoding="utf-8"), max(0.0, time.time() - path.stat().st_mtime)
    try:
        return json.loads(text), age
    except ValueError:
        return None, age

"""Files by which processes coordinate that share nothing but a run's folder: claims, and the request to cancel.

    .claims/1, .claims/2, …   which process has, or had, the right to write; the highest number counts
    .cancel.json              asks the worker to stop its attempt

How a claim is taken and judged is in `lab.dispatch.worker.claim`.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.records.atomic import write_json
from lab.records.checks import BrokenRecord, Fields, parse

CLAIMS = ".claims"
CANCEL_REQUEST = ".cancel.json"
VERSION = 1


@dataclass(frozen=True)
class ClaimRecord:
    """One claim on a folder.

    Attributes:
        host, pid, mark: of the process that took it; the mark distinguishes it from others with the same pid.
        taken: unix seconds.
        released: unix seconds; None before that.
    """

    host: str
    pid: int
    mark: str
    taken: float
    released: float | None = None


@dataclass(frozen=True)
class CancelRequest:
    """A request to stop a run.

    Attributes:
        attempt: the attempt to stop.
        reason: who asks for it, in a few words.
        asked: unix seconds.
    """

    attempt: int
    reason: str
    asked: float


def claim_path(folder: Path, number: int) -> Path:
    """The file of a claim on a folder."""
    return folder / CLAIMS / str(number)


def newest_claim(folder: Path) -> int:
    """The number of the newest claim on a folder; 0 where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return max((int(name) for name in os.listdir(folder / CLAIMS) if name.isdecimal()), default=0)
    return 0


def create_claim(path: Path, claim: ClaimRecord) -> None:
    """Write a claim that must not exist yet. The folder that it is on must exist.

    Raises:
        FileExistsError: another process has written it.
    """
    path.parent.mkdir(exist_ok=True)
    with open(path, "x", encoding="utf-8") as file:
        json.dump(asdict(claim), file)


def write_claim(path: Path, claim: ClaimRecord) -> None:
    """Replace a claim in one step."""
    write_json(path, asdict(claim))


def read_claim(path: Path) -> ClaimRecord | None:
    """Read a claim; None while it is being written, or if its writer was killed at that moment.

    Raises:
        FileNotFoundError: there is none.
        BrokenRecord: a value in it is wrong.
    """
    content = path.read_bytes()
    try:
        json.loads(content)
    except ValueError:
        return None
    return parse(path, content, _claim, newest=VERSION, what="a claim")


def read_cancel_request(folder: Path) -> CancelRequest | None:
    """The request to the worker in a run's folder; None if there is none, or none that can be read."""
    path = folder / CANCEL_REQUEST
    try:
        return parse(path, path.read_bytes(), _request, newest=VERSION, what="a request")
    except (FileNotFoundError, BrokenRecord):
        return None


def write_cancel_request(folder: Path, request: CancelRequest) -> None:
    """Ask the worker in a run's folder to stop."""
    write_json(folder / CANCEL_REQUEST, {"version": VERSION, **asdict(request)})


def remove_cancel_request(folder: Path) -> None:
    """Withdraw the request to the worker in a run's folder."""
    (folder / CANCEL_REQUEST).unlink(missing_ok=True)


def _claim(fields: Fields) -> ClaimRecord:
    return ClaimRecord(
        host=fields.text("host"),
        pid=fields.integer("pid"),
        mark=fields.text("mark"),
        taken=fields.finite("taken", 0.0),
        released=fields.finite_or_none("released"),
    )


def _request(fields: Fields) -> CancelRequest:
    return CancelRequest(fields.integer("attempt"), fields.text("reason"), fields.finite("asked", 0.0))

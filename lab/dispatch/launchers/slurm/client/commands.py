"""Slurm's own commands, asked with a time limit and answered in types.

A command that is missing, refuses, or has nobody to ask (a controller or an accounting database that is down) gives no
value and the reason; nothing here raises for that.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)

SECONDS = 20.0  # a busy controller takes several; one that is not there is noticed by then
_MANY = 200  # names or ids a command line
_KEY = re.compile(r"[A-Za-z][\w:/]*")

LIVE = frozenset(
    {
        "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "REQUEUED", "REQUEUE_HOLD",
        "REQUEUE_FED", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD",
    }
)  # fmt: skip
"""States of a job that is still going to do something, or may."""


@dataclasses.dataclass(frozen=True)
class Reply(Generic[T_co]):
    """What a command answered: `value`, or None and the `reason` why there is none."""

    value: T_co | None = None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Queued:
    """A job or one task of an array, as the controller knows it.

    Attributes:
        job: `12`, or `12_3` for a task of an array.
        state: in Slurm's words: PENDING, RUNNING, …
        reason: why it doesn't run, in Slurm's words; empty where there is none.
        nodes: that it runs or ran on; empty before.
        restarts: how many times it was requeued.
    """

    job: str
    state: str
    reason: str
    nodes: str
    partition: str
    restarts: int
    account: str
    qos: str
    user: str
    name: str

    @property
    def live(self) -> bool:
        return self.state in LIVE


@dataclasses.dataclass(frozen=True)
class Accounted:
    """A job or one task of an array, as the accounting database has it. It comes seconds late.

    Attributes:
        job: `12`, or `12_3` for a task of an array.
        state: in Slurm's words: COMPLETED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED, …
        by: of a cancelled job, the numeric id of the user who did it.
        exit_code: `code:signal`.
        elapsed: seconds.
        ended: when, as Slurm writes it; `Unknown` before.
    """

    job: str
    state: str
    by: str | None
    exit_code: str
    nodes: str
    elapsed: int
    ended: str
    name: str


def ask(command: str, *arguments: str, seconds: float = SECONDS) -> Reply[str]:
    """What one of Slurm's commands prints."""
    path = shutil.which(command)
    if path is None:
        return Reply(reason=f"{command} isn't installed here")
    try:
        done = subprocess.run(
            [path, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            env=environment(),
        )
    except subprocess.TimeoutExpired:
        return Reply(reason=f"{command} had no answer in {seconds:.0f} s")
    except OSError as error:
        return Reply(reason=f"{command}: {error.strerror}")
    if done.returncode != 0:
        return Reply(reason=complaint(done.stderr) or f"{command} ended with exit code {done.returncode}")
    return Reply(done.stdout)


def complaint(stderr: str) -> str:
    """The line of a command's complaints that says most: the last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("sbatch: error: ") if lines else ""


def environment() -> dict[str, str]:
    """This process's environment without what would change the form of an answer."""
    shaping = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(shaping)} | {"LC_ALL": "C"}


def is_installed() -> bool:
    """Whether Slurm's commands are on this machine."""
    return shutil.which("sbatch") is not None


def squeue(
    *, names: Sequence[str] | None = None, jobs: Sequence[str] | None = None, user: str | None = None
) -> Reply[list[Queued]]:
    """Jobs that the controller knows, a row an array task; ended ones too for the minutes that it remembers them.

    Args:
        names: those with one of these names; these jobs' ids; this user's. Without any, all jobs.
    """
    fields = ("JobArrayID", "State", "Reason", "NodeList", "Partition", "RestartCnt", "Account", "QOS", "UserName")
    shown = "".join(f"{field}:|," for field in fields) + "Name:"  # last, as it may hold anything
    whose = [] if user is None else [f"--user={user}"]
    found: list[Queued] = []
    for which in _filters("name", names) if names is not None else _filters("jobs", jobs):
        reply = ask("squeue", "--array", "--noheader", "--all", "--states=all", "--Format", shown, *whose, *which)
        if reply.value is None:
            if reply.reason is not None and "Invalid job id" in reply.reason:
                continue  # it has been forgotten
            return Reply(reason=reply.reason)
        for line in reply.value.splitlines():
            cells = [cell.strip() for cell in line.split("|", 9)]
            if len(cells) == 10:
                job, state, reason, nodes, partition, restarts, account, qos, owner, name = cells
                reason = "" if reason in ("None", "(null)") else reason
                again = int(restarts) if restarts.isdecimal() else 0
                found.append(Queued(job, state, reason, nodes, partition, again, account, qos, owner, name))
    return Reply(found)


def sacct(
    *, jobs: Sequence[str] | None = None, names: Sequence[str] | None = None, since: float | None = None
) -> Reply[list[Accounted]]:
    """Jobs that the accounting database knows, a row a job or array task, steps left out; the last start of each.

    Args:
        since: unix seconds; without it the database looks at the present day only, unless `jobs` are given.
    """
    fields = "JobID,State,ExitCode,NodeList,ElapsedRaw,End,JobName"
    from_when = [] if since is None else [f"--starttime={_moment(since)}"]
    found: dict[str, Accounted] = {}
    for which in _filters("name", names) if names is not None else _filters("jobs", jobs):
        reply = ask(
            "sacct", "--parsable2", "--noheader", "--allocations", "--allusers", "--format", fields, *from_when, *which
        )  # fmt: skip
        if reply.value is None:
            return Reply(reason=reply.reason)
        for line in reply.value.splitlines():
            cells = line.split("|", 6)
            if len(cells) == 7:
                ids, said, code, nodes, seconds, ended, name = cells
                state, _, by = said.partition(" by ")
                elapsed = int(seconds) if seconds.isdecimal() else 0
                for job in tasks(ids):
                    found[job] = Accounted(job, state, by or None, code, nodes, elapsed, ended, name)
    return Reply(list(found.values()))


def show_job(job: str) -> Reply[dict[str, str]]:
    """All that the controller knows of a job or one array task (`12_3`), by scontrol's names."""
    reply = ask("scontrol", "--oneliner", "show", "job", job)
    if reply.value is None:
        return Reply(reason=reply.reason)
    lines = reply.value.splitlines()
    return Reply(words(lines[0])) if lines else Reply(reason=f"scontrol knows no job {job}")


def configuration() -> Reply[dict[str, str]]:
    """The controller's configuration, by the names of slurm.conf."""
    reply = ask("scontrol", "show", "config")
    if reply.value is None:
        return Reply(reason=reply.reason)
    pairs = (line.partition("=") for line in reply.value.splitlines() if "=" in line)
    return Reply({key.strip(): value.strip() for key, _, value in pairs})


def records(what: str) -> Reply[list[dict[str, str]]]:
    """All partitions or nodes (`partition`, `node`) by scontrol's names."""
    reply = ask("scontrol", "--oneliner", "--all", "show", what)
    if reply.value is None:
        return Reply(reason=reply.reason)
    return Reply([words(line) for line in reply.value.splitlines() if "=" in line])


def sacctmgr(what: str, fields: Sequence[str], *where: str) -> Reply[list[dict[str, str]]]:
    """Rows of the accounting's own tables: `association`, `qos`, `user`."""
    condition = ["where", *where] if where else []
    reply = ask("sacctmgr", "--noheader", "--parsable2", "show", what, *condition, f"format={','.join(fields)}")
    if reply.value is None:
        return Reply(reason=reply.reason)
    return Reply([dict(zip(fields, line.split("|"), strict=False)) for line in reply.value.splitlines() if line])


def requeue(job: str) -> str | None:
    """Put a job or array task back into the queue. Returns why that failed, or None."""
    return ask("scontrol", "requeue", job).reason


def cancel(jobs: Iterable[str], *, pending_only: bool = False) -> str | None:
    """Cancel jobs and array tasks. Those that have ended are passed over. Returns why that failed, or None."""
    state = ["--state=PENDING"] if pending_only else []
    jobs = list(jobs)
    for start in range(0, len(jobs), _MANY):
        reply = ask("scancel", "--quiet", *state, *jobs[start : start + _MANY])
        if reply.reason is not None:
            return reply.reason
    return None


def words(line: str) -> dict[str, str]:
    """`Key=value` pairs of a line of scontrol's; a value with spaces goes on to the next key."""
    found: dict[str, str] = {}
    last = None
    for word in line.split():
        key, equals, value = word.partition("=")
        if equals and _KEY.fullmatch(key):
            found[last := key] = value
        elif last is not None:
            found[last] += f" {word}"
    return found


def tasks(job: str) -> list[str]:
    """The tasks that an id stands for: `12_[0-2,5%4]` for four, `12_3` and `12` for themselves."""
    array, _, indices = job.partition("_[")
    if not indices:
        return [job]
    found = []
    for part in indices.rstrip("]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            found += [f"{array}_{index}" for index in range(int(first), int(last or first) + 1)]
    return found


def _filters(option: str, values: Sequence[str] | None) -> Iterator[list[str]]:
    if values is None:
        yield []
        return
    for start in range(0, len(values), _MANY):
        yield [f"--{option}={','.join(values[start : start + _MANY])}"]


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))

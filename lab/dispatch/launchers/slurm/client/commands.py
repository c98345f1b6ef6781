"""Slurm's commands, run with a time limit, with their output as types.

A command can fail: it is missing, refuses, or gets no answer from a controller or an accounting database that is down.
Then its `Reply` has no value but a reason. Nothing here raises for that.
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

SECONDS = 20.0  # time limit of a command: a busy controller takes several seconds to answer
_PER_COMMAND = 200  # most names or ids on one command line
_KEY = re.compile(r"[A-Za-z][\w:/]*")

LIVE = frozenset(
    {
        "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "REQUEUED", "REQUEUE_HOLD",
        "REQUEUE_FED", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD",
    }
)  # fmt: skip
"""States of a job that hasn't ended, or that will run again."""


@dataclasses.dataclass(frozen=True)
class Reply(Generic[T_co]):
    """The result of a command: its `value`, or None and the `reason` why there is none."""

    value: T_co | None = None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class QueueRow:
    """A job or one task of an array, from `squeue`.

    Attributes:
        job: `12`, or `12_3` for a task of an array.
        state: in Slurm's words: PENDING, RUNNING, …
        reason: why it doesn't run, in Slurm's words; empty if there is no reason.
        nodes: where it runs or ran; empty before it starts.
        account: that it is charged to.
        qos: its quality of service.
        user: the owner's name.
        name: of the job.
    """

    job: str
    state: str
    reason: str
    nodes: str
    account: str
    qos: str
    user: str
    name: str

    @property
    def is_live(self) -> bool:
        return self.state in LIVE


@dataclasses.dataclass(frozen=True)
class AccountingRow:
    """A job or one task of an array, from `sacct`. The accounting database is some seconds behind the controller.

    Attributes:
        job: `12`, or `12_3` for a task of an array.
        state: in Slurm's words: COMPLETED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED, …
        cancelled_by: the numeric id of the user who cancelled it; None if nobody did.
        exit_code: `code:signal`.
        nodes: where it ran.
        end_time: as Slurm prints it, in local time; `Unknown` before its end.
        name: of the job.
    """

    job: str
    state: str
    cancelled_by: str | None
    exit_code: str
    nodes: str
    end_time: str
    name: str


def ask(command: str, *arguments: str, seconds: float = SECONDS) -> Reply[str]:
    """Run one of Slurm's commands. The value is its standard output."""
    path = shutil.which(command)
    if path is None:
        return Reply(reason=f"{command} isn't installed here")
    try:
        process = subprocess.run(
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
    if process.returncode != 0:
        return Reply(reason=error_line(process.stderr) or f"{command} ended with exit code {process.returncode}")
    return Reply(process.stdout)


def error_line(stderr: str) -> str:
    """The last line of a command's standard error, which is the most informative one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("sbatch: error: ") if lines else ""


def environment() -> dict[str, str]:
    """This process's environment, without variables that change the format of Slurm's output."""
    formatting = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(formatting)} | {"LC_ALL": "C"}


def is_installed() -> bool:
    """Whether Slurm's commands are on this machine."""
    return shutil.which("sbatch") is not None


def squeue(*, names: Sequence[str] | None = None, jobs: Sequence[str] | None = None) -> Reply[list[QueueRow]]:
    """The jobs that the controller knows, one row for each array task. It forgets jobs some minutes after their end.

    Args:
        names: only jobs with one of these names.
        jobs: only jobs with one of these ids. Without either argument, all jobs.
    """
    fields = ("JobArrayID", "State", "Reason", "NodeList", "Account", "QOS", "UserName")
    # The name comes last, because it may contain the separator.
    columns = "".join(f"{field}:|," for field in fields) + "Name:"
    rows: list[QueueRow] = []
    for filter_ in _filters("name", names) if names is not None else _filters("jobs", jobs):
        reply = ask("squeue", "--array", "--noheader", "--all", "--states=all", "--Format", columns, *filter_)
        if reply.value is None:
            if reply.reason is not None and "Invalid job id" in reply.reason:
                continue  # the controller has forgotten the job
            return Reply(reason=reply.reason)
        for line in reply.value.splitlines():
            cells = [cell.strip() for cell in line.split("|", len(fields))]
            if len(cells) == len(fields) + 1:
                job, state, reason, nodes, account, qos, user, name = cells
                reason = "" if reason in ("None", "(null)") else reason
                rows.append(QueueRow(job, state, reason, nodes, account, qos, user, name))
    return Reply(rows)


def sacct(
    *, jobs: Sequence[str] | None = None, names: Sequence[str] | None = None, since: float | None = None
) -> Reply[list[AccountingRow]]:
    """The jobs in the accounting database, one row for each job or array task, without its steps.

    Of a job that was requeued, the row is that of its last start.

    Args:
        jobs: only jobs with one of these ids.
        names: only jobs with one of these names.
        since: unix seconds. By default the database searches the present day only, unless `jobs` are given.
    """
    fields = ("JobID", "State", "ExitCode", "NodeList", "End", "JobName")
    start_time = [] if since is None else [f"--starttime={_local_time(since)}"]
    options = ("--parsable2", "--noheader", "--allocations", "--allusers", "--format", ",".join(fields), *start_time)
    rows: dict[str, AccountingRow] = {}
    for filter_ in _filters("name", names) if names is not None else _filters("jobs", jobs):
        reply = ask("sacct", *options, *filter_)
        if reply.value is None:
            return Reply(reason=reply.reason)
        for line in reply.value.splitlines():
            cells = line.split("|", len(fields) - 1)
            if len(cells) == len(fields):
                ids, full_state, exit_code, nodes, end_time, name = cells
                state, _, user_id = full_state.partition(" by ")
                for job in task_ids(ids):
                    rows[job] = AccountingRow(job, state, user_id or None, exit_code, nodes, end_time, name)
    return Reply(list(rows.values()))


def show_job(job: str) -> Reply[dict[str, str]]:
    """All that the controller knows about a job or one array task (`12_3`), by scontrol's names."""
    reply = ask("scontrol", "--oneliner", "show", "job", job)
    if reply.value is None:
        return Reply(reason=reply.reason)
    lines = reply.value.splitlines()
    return Reply(key_values(lines[0])) if lines else Reply(reason=f"scontrol knows no job {job}")


def configuration() -> Reply[dict[str, str]]:
    """The controller's configuration, by the names of slurm.conf."""
    reply = ask("scontrol", "show", "config")
    if reply.value is None:
        return Reply(reason=reply.reason)
    pairs = (line.partition("=") for line in reply.value.splitlines() if "=" in line)
    return Reply({key.strip(): value.strip() for key, _, value in pairs})


def show_all(entity: str) -> Reply[list[dict[str, str]]]:
    """All partitions or nodes, by scontrol's names. `entity`: `partition` or `node`."""
    reply = ask("scontrol", "--oneliner", "--all", "show", entity)
    if reply.value is None:
        return Reply(reason=reply.reason)
    return Reply([key_values(line) for line in reply.value.splitlines() if "=" in line])


def sacctmgr(table: str, fields: Sequence[str], *conditions: str) -> Reply[list[dict[str, str]]]:
    """Rows of a table of the accounting database: `association`, `qos` or `user`."""
    where = ["where", *conditions] if conditions else []
    reply = ask("sacctmgr", "--noheader", "--parsable2", "show", table, *where, f"format={','.join(fields)}")
    if reply.value is None:
        return Reply(reason=reply.reason)
    return Reply([dict(zip(fields, line.split("|"), strict=False)) for line in reply.value.splitlines() if line])


def requeue(job: str) -> str | None:
    """Put a job or array task back into the queue. Returns why that failed, or None."""
    return ask("scontrol", "requeue", job).reason


def cancel(jobs: Iterable[str], *, pending_only: bool = False) -> str | None:
    """Cancel jobs and array tasks, except those that have ended. Returns why that failed, or None."""
    state = ["--state=PENDING"] if pending_only else []
    jobs = list(jobs)
    for start in range(0, len(jobs), _PER_COMMAND):
        reply = ask("scancel", "--quiet", *state, *jobs[start : start + _PER_COMMAND])
        if reply.reason is not None:
            return reply.reason
    return None


def key_values(line: str) -> dict[str, str]:
    """The `Key=value` pairs in a line of scontrol's output. A value may contain spaces: it ends at the next key."""
    values: dict[str, str] = {}
    last_key = None
    for word in line.split():
        key, equals, value = word.partition("=")
        if equals and _KEY.fullmatch(key):
            values[last_key := key] = value
        elif last_key is not None:
            values[last_key] += f" {word}"
    return values


def task_ids(job: str) -> list[str]:
    """The ids of the tasks in a job id: four for `12_[0-2,5%4]`; `12_3` and `12` are returned as they are."""
    array, _, indices = job.partition("_[")
    if not indices:
        return [job]
    ids = []
    for part in indices.rstrip("]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            ids += [f"{array}_{index}" for index in range(int(first), int(last or first) + 1)]
    return ids


def _filters(option: str, values: Sequence[str] | None) -> Iterator[list[str]]:
    if values is None:
        yield []
        return
    for start in range(0, len(values), _PER_COMMAND):
        yield [f"--{option}={','.join(values[start : start + _PER_COMMAND])}"]


def _local_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))

"""The cluster that this machine belongs to: its partitions and nodes, what accounts and qos allow, and its queue.

Read by Slurm's own commands, each time anew. Where the accounting doesn't answer its part is left out, with a word.
"""

from __future__ import annotations

import dataclasses
import getpass
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.client.commands import Queued, Reply

ENDLESS = ("UNLIMITED", "INFINITE", "NONE", "N/A", "(null)", "-1", "")


@dataclasses.dataclass(frozen=True)
class Node:
    """A node. `memory` in MB; `gres`: `gpu` and `gpu:a100` → how many."""

    name: str
    address: str
    cpus: int
    memory: int
    gres: Mapping[str, int]
    features: frozenset[str]
    partitions: frozenset[str]
    state: str


@dataclasses.dataclass(frozen=True)
class Partition:
    """A partition. `minutes` and `max_nodes` None: without a limit."""

    name: str
    default: bool
    state: str
    minutes: int | None
    max_nodes: int | None


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What an account's association or a qos allows; None: without a limit.

    Attributes:
        minutes: of a job.
        submit: jobs of one user, array tasks counted, queued and running.
        group: the same, of all users together.
    """

    minutes: int | None = None
    submit: int | None = None
    group: int | None = None


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster as it stands now.

    Attributes:
        max_array: tasks that one array may have.
        max_jobs: that the controller keeps, all users', array tasks counted.
        accounts: of this user → bounds; None where the accounting doesn't answer or isn't there.
        qos_of: account → the qos that this user may use with it, the default one first.
        default_account: used where none is named.
        qos: all there are → bounds; None as `accounts`.
        queue: all jobs that the controller knows.
        unknown: why something could not be found out.
    """

    max_array: int
    max_jobs: int
    partitions: Mapping[str, Partition]
    nodes: tuple[Node, ...]
    accounts: Mapping[str, Bounds] | None
    qos_of: Mapping[str, tuple[str, ...]]
    default_account: str | None
    qos: Mapping[str, Bounds] | None
    queue: tuple[Queued, ...]
    unknown: tuple[str, ...] = ()

    def partition(self, name: str | None) -> Partition | None:
        """By name; the default one without."""
        if name is not None:
            return self.partitions.get(name)
        return next((each for each in self.partitions.values() if each.default), None)


def look() -> Reply[Cluster]:
    """The cluster that this machine belongs to; without one, the reason and what to do."""
    for command in ("sbatch", "srun", "scontrol", "squeue"):
        if shutil.which(command) is None:
            return Reply(reason=f"no SLURM here: {command} isn't installed; log in where it is, or use --on local")
    config = commands.configuration()
    if config.value is None:
        return Reply(reason=_silent(config.reason))
    partitions, nodes, queue = commands.records("partition"), commands.records("node"), commands.squeue()
    for reply in (partitions, nodes, queue):
        if reply.reason is not None:
            return Reply(reason=_silent(reply.reason))
    accounts, qos_of, default, qos, unknown = _accounting(config.value)
    return Reply(
        Cluster(
            max_array=_number(config.value.get("MaxArraySize")) or 1001,
            max_jobs=_number(config.value.get("MaxJobCount")) or 10_000,
            partitions={each["PartitionName"]: _partition(each) for each in partitions.value or ()},
            nodes=tuple(_node(each) for each in nodes.value or ()),
            accounts=accounts,
            qos_of=qos_of,
            default_account=default,
            qos=qos,
            queue=tuple(queue.value or ()),
            unknown=unknown,
        )
    )


def _accounting(
    config: Mapping[str, str],
) -> tuple[dict[str, Bounds] | None, dict[str, tuple[str, ...]], str | None, dict[str, Bounds] | None, tuple[str, ...]]:
    """This user's accounts with their bounds, their qos, the default account, and all qos with theirs."""
    if "slurmdbd" not in config.get("AccountingStorageType", ""):
        return None, {}, None, None, ()
    cluster, user = config.get("ClusterName", ""), getpass.getuser()
    fields = ("Account", "User", "MaxSubmit", "GrpSubmit", "MaxWall", "QOS", "DefaultQOS")
    here = f"cluster={cluster}"
    with ThreadPoolExecutor() as asked:  # a quarter of a second each, most of it waiting
        mine, groups, levels, person = asked.map(
            lambda question: commands.sacctmgr(*question),
            (
                ("association", fields, f"user={user}", here),
                ("association", ("Account", "GrpSubmit"), "user=", here),
                ("qos", ("Name", "MaxSubmitPU", "GrpSubmit", "MaxWall")),
                ("user", ("User", "DefaultAccount"), f"name={user}"),
            ),
        )
    unknown = dict.fromkeys(reply.reason for reply in (mine, levels, person) if reply.reason)
    if mine.value is None or levels.value is None or person.value is None:
        return None, {}, None, None, tuple(f"the limits of accounts and qos: {reason}" for reason in unknown)
    of_group = {row["Account"]: _number(row["GrpSubmit"]) for row in groups.value or ()}
    accounts = {
        row["Account"]: Bounds(
            minutes_of(row["MaxWall"]),
            _number(row["MaxSubmit"]),
            _least(_number(row["GrpSubmit"]), of_group.get(row["Account"])),
        )
        for row in mine.value
    }
    qos_of = {}
    for row in mine.value:
        names = [name for name in row["QOS"].split(",") if name]
        first = row["DefaultQOS"] or ("normal" if "normal" in names else names[0] if len(names) == 1 else "")
        qos_of[row["Account"]] = tuple(dict.fromkeys([*([first] if first else []), *names]))
    qos = {
        row["Name"]: Bounds(minutes_of(row["MaxWall"]), _number(row["MaxSubmitPU"]), _number(row["GrpSubmit"]))
        for row in levels.value
    }
    default = next((row["DefaultAccount"] for row in person.value if row["DefaultAccount"]), None)
    # Without enforcement limits are on record only, and Slurm takes what goes beyond them.
    enforced = config.get("AccountingStorageEnforce", "")
    if "limits" not in enforced and "safe" not in enforced:
        accounts = dict.fromkeys(accounts, Bounds())
        qos = dict.fromkeys(qos, Bounds())
    return (accounts if "associations" in enforced else None), qos_of, default, qos, ()


def _partition(words: Mapping[str, str]) -> Partition:
    return Partition(
        name=words["PartitionName"],
        default=words.get("Default") == "YES",
        state=words.get("State", "UP"),
        minutes=minutes_of(words.get("MaxTime", "")),
        max_nodes=_number(words.get("MaxNodes")),
    )


def _node(words: Mapping[str, str]) -> Node:
    features = words.get("AvailableFeatures", "")
    return Node(
        name=words["NodeName"],
        address=words.get("NodeAddr", words["NodeName"]),
        cpus=_number(words.get("CPUTot")) or 1,
        memory=_number(words.get("RealMemory")) or 0,
        gres=gres(words.get("Gres", "")),
        features=frozenset(features.split(",")) - set(ENDLESS),
        partitions=frozenset(words.get("Partitions", "").split(",")),
        state=words.get("State", ""),
    )


def gres(text: str, count: int = 0) -> dict[str, int]:
    """`gpu:a100:4(S:0-1),nvme:1` → {"gpu": 4, "gpu:a100": 4, "nvme": 1}; where a request names a type, only that."""
    found: dict[str, int] = {}
    for each in re.sub(r"\([^)]*\)", "", text).split(","):
        *names, last = each.removeprefix("gres/").split(":")
        if last.isdecimal():
            number = int(last)
        else:
            names, number = [*names, last], 1
        if names and names[0] and names[0] not in ENDLESS:
            found[":".join(names)] = found.get(":".join(names), 0) + number
            if len(names) > 1 and not count:
                found[names[0]] = found.get(names[0], 0) + number
    return found


def minutes_of(text: str) -> int | None:
    """Slurm's `1-02:00:00` or `10:00` in whole minutes; None for no limit."""
    if text in ENDLESS:
        return None
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        parts = [*parts, 0, 0][:3]
    elif len(parts) < 3:
        parts = [0, *parts, 0][:3]
    return int(days or 0) * 1440 + parts[0] * 60 + parts[1]


def _number(text: str | None) -> int | None:
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match else None


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _silent(reason: str | None) -> str:
    return f"SLURM's controller doesn't answer: {reason}; see `scontrol ping`, and try again once it says UP"

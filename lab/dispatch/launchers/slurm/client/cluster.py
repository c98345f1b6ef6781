"""The cluster that this machine belongs to: its partitions and nodes, what accounts and qos allow, and its queue.

Slurm's own commands are asked each time anew. What the accounting doesn't tell is left out, and `unknown` says so.
"""

from __future__ import annotations

import dataclasses
import getpass
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lab.dispatch.launchers.slurm.client import commands, units
from lab.dispatch.launchers.slurm.client.commands import Queued, Reply
from lab.refusals import RequestError

T = TypeVar("T")

_UNLIMITED = ("UNLIMITED", "INFINITE", "NONE", "N/A", "(null)", "-1", "")
_NEEDED = ("sbatch", "srun", "scontrol", "squeue")


@dataclasses.dataclass(frozen=True)
class Node:
    """A node. `memory` in MB; `gres`: how many of `gpu`, and of `gpu:a100`."""

    name: str
    address: str
    cpus: int
    memory: int
    gres: Mapping[str, int]
    features: frozenset[str]
    partitions: frozenset[str]


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
class Accounting:
    """What the accounting allows this user.

    Attributes:
        accounts: of this user → bounds; None where the accounting doesn't answer, isn't there, or enforces nothing.
        qos_of: account → the qos that this user may use with it, the default one first.
        default_account: used where none is named.
        qos: all there are → bounds; None where the accounting doesn't answer or isn't there.
        unknown: why something could not be found out.
    """

    accounts: Mapping[str, Bounds] | None = None
    qos_of: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    default_account: str | None = None
    qos: Mapping[str, Bounds] | None = None
    unknown: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster as it stands now.

    Attributes:
        name: Slurm's.
        max_array: tasks that one array may have.
        max_jobs: that the controller keeps, all users', array tasks counted.
        queue: all jobs that the controller knows.
    """

    name: str
    max_array: int
    max_jobs: int
    partitions: Mapping[str, Partition]
    nodes: tuple[Node, ...]
    accounting: Accounting
    queue: tuple[Queued, ...]

    def partition(self, name: str | None) -> Partition | None:
        """By name; the default one without."""
        if name is not None:
            return self.partitions.get(name)
        return next((partition for partition in self.partitions.values() if partition.default), None)

    def nodes_of(self, partition: Partition) -> list[Node]:
        """The nodes of a partition."""
        return [node for node in self.nodes if partition.name in node.partitions]


def look() -> Cluster:
    """The cluster that this machine belongs to.

    Raises:
        RequestError: there is none here, or its controller doesn't answer.
    """
    for command in _NEEDED:
        if shutil.which(command) is None:
            raise RequestError(
                f"no SLURM here: {command} isn't installed",
                kind="unavailable",
                fix="log in where it is, or use --on local",
            )
    config = answer(commands.configuration())
    return Cluster(
        name=config.get("ClusterName", "?"),
        max_array=max_array(config),
        max_jobs=_number(config.get("MaxJobCount")) or 10_000,
        partitions={words["PartitionName"]: _partition(words) for words in answer(commands.records("partition"))},
        nodes=tuple(_node(words) for words in answer(commands.records("node"))),
        queue=tuple(answer(commands.squeue())),
        accounting=_accounting(config),
    )


def max_array(config: Mapping[str, str]) -> int:
    """Tasks that one array may have, from the controller's configuration."""
    return _number(config.get("MaxArraySize")) or 1001


def answer(reply: Reply[T]) -> T:
    """What the controller answered.

    Raises:
        RequestError: it doesn't answer.
    """
    if reply.value is None:
        raise RequestError(
            f"SLURM's controller doesn't answer: {reply.reason}",
            kind="unavailable",
            fix="see `scontrol ping`, and try again once it says UP",
        )
    return reply.value


def _accounting(config: Mapping[str, str]) -> Accounting:
    if "slurmdbd" not in config.get("AccountingStorageType", ""):
        return Accounting()
    here, user = f"cluster={config.get('ClusterName', '')}", getpass.getuser()
    columns = ("Account", "User", "MaxSubmit", "GrpSubmit", "MaxWall", "QOS", "DefaultQOS")
    with ThreadPoolExecutor() as pool:  # a quarter of a second each, most of it waiting
        mine, groups, levels, person = pool.map(
            lambda question: commands.sacctmgr(*question),
            (
                ("association", columns, f"user={user}", here),
                ("association", ("Account", "GrpSubmit"), "user=", here),
                ("qos", ("Name", "MaxSubmitPU", "GrpSubmit", "MaxWall")),
                ("user", ("User", "DefaultAccount"), f"name={user}"),
            ),
        )
    if mine.value is None or levels.value is None or person.value is None:
        reasons = dict.fromkeys(reply.reason for reply in (mine, levels, person) if reply.reason)
        return Accounting(unknown=tuple(f"the limits of accounts and qos: {reason}" for reason in reasons))
    of_group = {row["Account"]: _number(row["GrpSubmit"]) for row in groups.value or ()}
    accounts = {
        row["Account"]: Bounds(
            _minutes(row["MaxWall"]),
            _number(row["MaxSubmit"]),
            _least(_number(row["GrpSubmit"]), of_group.get(row["Account"])),
        )
        for row in mine.value
    }
    qos = {
        row["Name"]: Bounds(_minutes(row["MaxWall"]), _number(row["MaxSubmitPU"]), _number(row["GrpSubmit"]))
        for row in levels.value
    }
    # Without enforcement limits are on record only, and Slurm takes what goes beyond them.
    enforced = config.get("AccountingStorageEnforce", "")
    if "limits" not in enforced and "safe" not in enforced:
        accounts = dict.fromkeys(accounts, Bounds())
        qos = dict.fromkeys(qos, Bounds())
    return Accounting(
        accounts=accounts if "associations" in enforced else None,
        qos_of={row["Account"]: _qos_of(row) for row in mine.value},
        default_account=next((row["DefaultAccount"] for row in person.value if row["DefaultAccount"]), None),
        qos=qos,
    )


def _qos_of(association: Mapping[str, str]) -> tuple[str, ...]:
    """The qos of an account's association, the default one first."""
    names = [name for name in association["QOS"].split(",") if name]
    default = association["DefaultQOS"] or ("normal" if "normal" in names else names[0] if len(names) == 1 else "")
    return tuple(name for name in dict.fromkeys([default, *names]) if name)


def _partition(words: Mapping[str, str]) -> Partition:
    return Partition(
        name=words["PartitionName"],
        default=words.get("Default") == "YES",
        state=words.get("State", "UP"),
        minutes=_minutes(words.get("MaxTime", "")),
        max_nodes=_number(words.get("MaxNodes")),
    )


def _node(words: Mapping[str, str]) -> Node:
    return Node(
        name=words["NodeName"],
        address=words.get("NodeAddr", words["NodeName"]),
        cpus=_number(words.get("CPUTot")) or 1,
        memory=_number(words.get("RealMemory")) or 0,
        gres=units.gres(words.get("Gres", "")),
        features=frozenset(words.get("AvailableFeatures", "").split(",")) - set(_UNLIMITED),
        partitions=frozenset(words.get("Partitions", "").split(",")),
    )


def _minutes(text: str) -> int | None:
    return None if text in _UNLIMITED else units.minutes(text)


def _number(text: str | None) -> int | None:
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match else None


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)

"""The cluster that this machine belongs to: its partitions, nodes and queue, and the limits of accounts and qos.

Each call runs Slurm's commands again. If the accounting database doesn't answer, its limits are missing and `problems`
says why.
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
from lab.dispatch.launchers.slurm.client.commands import QueueRow, Reply
from lab.refusals import RequestError

T = TypeVar("T")

_UNLIMITED = ("UNLIMITED", "INFINITE", "NONE", "N/A", "(null)", "-1", "")
_REQUIRED_COMMANDS = ("sbatch", "srun", "scontrol", "squeue")


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
        memory: in MB.
        gres: generic resource → count, both of `gpu` and of `gpu:a100`.
    """

    name: str
    address: str
    cpus: int
    memory: int
    gres: Mapping[str, int]
    features: frozenset[str]
    partitions: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Partition:
    """A partition of the cluster.

    Attributes:
        default: whether jobs that name no partition go there.
        state: `UP`, `DOWN`, `DRAIN` or `INACTIVE`.
        minutes: time limit of a job; None for no limit.
        max_nodes: most nodes of a job; None for no limit.
    """

    name: str
    default: bool
    state: str
    minutes: int | None
    max_nodes: int | None


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The limits of an account or a qos; None for no limit.

    Attributes:
        minutes: time limit of a job.
        user_jobs: most jobs of one user in the queue, pending or running; each array task counts.
        group_jobs: the same for all users together.
    """

    minutes: int | None = None
    user_jobs: int | None = None
    group_jobs: int | None = None


@dataclasses.dataclass(frozen=True)
class Accounting:
    """What the accounting database allows this user.

    Attributes:
        accounts: account of this user → its limits; None if there is no database, it doesn't answer, or the cluster
            doesn't enforce associations.
        qos_by_account: account → the qos that this user may use with it, the default first.
        default_account: of jobs that name no account.
        qos: qos → its limits; None if there is no database or it doesn't answer.
        problems: why limits are missing, one line each.
    """

    accounts: Mapping[str, Bounds] | None = None
    qos_by_account: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    default_account: str | None = None
    qos: Mapping[str, Bounds] | None = None
    problems: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The present state of a cluster.

    Attributes:
        name: ClusterName in Slurm's configuration.
        max_array: most tasks of an array.
        max_jobs: most jobs of all users that the controller keeps; each array task counts.
        partitions: name → partition.
        nodes: all nodes.
        accounting: limits of this user.
        queue: all jobs that the controller knows.
    """

    name: str
    max_array: int
    max_jobs: int
    partitions: Mapping[str, Partition]
    nodes: tuple[Node, ...]
    accounting: Accounting
    queue: tuple[QueueRow, ...]

    def partition(self, name: str | None) -> Partition | None:
        """A partition by its name; the default partition for None."""
        if name is not None:
            return self.partitions.get(name)
        return next((partition for partition in self.partitions.values() if partition.default), None)

    def nodes_of(self, partition: Partition) -> list[Node]:
        """The nodes of a partition."""
        return [node for node in self.nodes if partition.name in node.partitions]


def read_cluster() -> Cluster:
    """The cluster that this machine belongs to.

    Raises:
        RequestError: Slurm isn't installed here, or its controller doesn't answer.
    """
    for command in _REQUIRED_COMMANDS:
        if shutil.which(command) is None:
            raise RequestError(
                f"no SLURM here: {command} isn't installed",
                kind="unavailable",
                fix="log in where it is, or use --on local",
            )
    config = require(commands.configuration())
    return Cluster(
        name=config.get("ClusterName", "?"),
        max_array=max_array(config),
        max_jobs=_number(config.get("MaxJobCount")) or 10_000,
        partitions={values["PartitionName"]: _partition(values) for values in require(commands.show_all("partition"))},
        nodes=tuple(_node(values) for values in require(commands.show_all("node"))),
        queue=tuple(require(commands.squeue())),
        accounting=_accounting(config),
    )


def max_array(config: Mapping[str, str]) -> int:
    """Most tasks of an array, by the controller's configuration."""
    return _number(config.get("MaxArraySize")) or 1001


def require(reply: Reply[T]) -> T:
    """The value of the controller's reply.

    Raises:
        RequestError: the controller didn't answer.
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
    cluster, user = f"cluster={config.get('ClusterName', '')}", getpass.getuser()
    columns = ("Account", "User", "MaxSubmit", "GrpSubmit", "MaxWall", "QOS", "DefaultQOS")
    with ThreadPoolExecutor() as pool:  # each query takes a quarter of a second, most of it waiting
        associations, groups, qos_rows, users = pool.map(
            lambda query: commands.sacctmgr(*query),
            (
                ("association", columns, f"user={user}", cluster),
                ("association", ("Account", "GrpSubmit"), "user=", cluster),
                ("qos", ("Name", "MaxSubmitPU", "GrpSubmit", "MaxWall")),
                ("user", ("User", "DefaultAccount"), f"name={user}"),
            ),
        )
    if associations.value is None or qos_rows.value is None or users.value is None:
        reasons = dict.fromkeys(reply.reason for reply in (associations, qos_rows, users) if reply.reason)
        return Accounting(problems=tuple(f"the limits of accounts and qos: {reason}" for reason in reasons))
    group_jobs = {row["Account"]: _number(row["GrpSubmit"]) for row in groups.value or ()}
    accounts = {
        row["Account"]: Bounds(
            _minutes(row["MaxWall"]),
            _number(row["MaxSubmit"]),
            _least(_number(row["GrpSubmit"]), group_jobs.get(row["Account"])),
        )
        for row in associations.value
    }
    qos = {
        row["Name"]: Bounds(_minutes(row["MaxWall"]), _number(row["MaxSubmitPU"]), _number(row["GrpSubmit"]))
        for row in qos_rows.value
    }
    # Slurm enforces the recorded limits only if its configuration says so.
    enforcement = config.get("AccountingStorageEnforce", "")
    if "limits" not in enforcement and "safe" not in enforcement:
        accounts = dict.fromkeys(accounts, Bounds())
        qos = dict.fromkeys(qos, Bounds())
    return Accounting(
        accounts=accounts if "associations" in enforcement else None,
        qos_by_account={row["Account"]: _qos_of(row) for row in associations.value},
        default_account=next((row["DefaultAccount"] for row in users.value if row["DefaultAccount"]), None),
        qos=qos,
    )


def _qos_of(association: Mapping[str, str]) -> tuple[str, ...]:
    """The qos of an account's association, the default first."""
    names = [name for name in association["QOS"].split(",") if name]
    default = association["DefaultQOS"] or ("normal" if "normal" in names else names[0] if len(names) == 1 else "")
    return tuple(name for name in dict.fromkeys([default, *names]) if name)


def _partition(values: Mapping[str, str]) -> Partition:
    return Partition(
        name=values["PartitionName"],
        default=values.get("Default") == "YES",
        state=values.get("State", "UP"),
        minutes=_minutes(values.get("MaxTime", "")),
        max_nodes=_number(values.get("MaxNodes")),
    )


def _node(values: Mapping[str, str]) -> Node:
    return Node(
        name=values["NodeName"],
        address=values.get("NodeAddr", values["NodeName"]),
        cpus=_number(values.get("CPUTot")) or 1,
        memory=_number(values.get("RealMemory")) or 0,
        gres=units.gres(values.get("Gres", "")),
        features=frozenset(values.get("AvailableFeatures", "").split(",")) - set(_UNLIMITED),
        partitions=frozenset(values.get("Partitions", "").split(",")),
    )


def _minutes(text: str) -> int | None:
    return None if text in _UNLIMITED else units.minutes(text)


def _number(text: str | None) -> int | None:
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match else None


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)

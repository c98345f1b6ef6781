"""The cluster's limits, checked before anything is created or sent.

Slurm itself accepts many jobs that it can never run, and reports one problem at a time, in the middle of a submission.
These checks find all problems first.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.registry import nearest
from lab.dispatch.launchers.options import PREFIX
from lab.dispatch.launchers.slurm.check import shared_filesystem
from lab.dispatch.launchers.slurm.client import commands, units
from lab.dispatch.launchers.slurm.client.cluster import Bounds, Cluster, Partition
from lab.dispatch.launchers.slurm.client.commands import QueueRow
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.refusals import Kind, Refusal, Where
from lab.units import plural


def refusals(settings: Settings, jobs: int, root: Path, cluster: Cluster) -> list[Refusal]:
    """Every reason why the cluster wouldn't run these jobs; empty if it would.

    Args:
        settings: of the jobs.
        jobs: number of jobs; each array task counts.
        root: the folder that holds all runs.
        cluster: the cluster's present state.
    """
    partition = cluster.partition(settings.partition)
    if partition is None:
        names = tuple(cluster.partitions)
        if settings.partition is None:
            return [_refusal("partition", "the cluster has no default partition", kind="missing", names=names)]
        return [_unknown("partition", settings.partition, names)]
    result = [*_accounting_refusals(settings, jobs, partition, cluster), *_node_refusals(settings, partition, cluster)]
    if partition.state != "UP":
        problem = f"{partition.name} is {partition.state} now"
        result.append(_refusal("partition", problem, fix="use another partition, or try again later"))
    if len(cluster.queue) + jobs > cluster.max_jobs:
        problem = (
            f"{plural(jobs, 'job')} on top of the {len(cluster.queue):,} that the controller holds are more than "
            f"its MaxJobCount of {cluster.max_jobs:,} (each array task counts)"
        )
        result.append(_too_many(settings, jobs, cluster.max_jobs - len(cluster.queue), problem))
    result += _option_refusals(settings)
    if not settings.root_is_shared:
        addresses = [(node.name, node.address) for node in cluster.nodes_of(partition)]
        root_refusal = shared_filesystem.refusal(root, addresses)
        result += [root_refusal] if root_refusal else []
    return result


def _accounting_refusals(settings: Settings, jobs: int, partition: Partition, cluster: Cluster) -> Iterator[Refusal]:
    """Limits of partition, account and qos on time and on the number of jobs."""
    accounting = cluster.accounting
    account = settings.account or accounting.default_account or ""
    queue = [job for job in cluster.queue if job.is_live]
    yield from _exceeded(f"partition {partition.name}", Bounds(minutes=partition.minutes), settings, jobs, queue)
    if accounting.accounts is not None:
        if not accounting.accounts:
            problem = f"{getpass.getuser()} has no account on this cluster"
            yield _refusal("account", problem, fix="ask its administrators for one")
            return
        if settings.account is not None and settings.account not in accounting.accounts:
            problem = f"you have no account '{settings.account}'"
            yield _unknown("account", settings.account, tuple(accounting.accounts), problem)
            return
        if account in accounting.accounts:
            own_queue = [job for job in queue if job.account == account]
            yield from _exceeded(f"account {account}", accounting.accounts[account], settings, jobs, own_queue)
    account_qos = accounting.qos_by_account.get(account, ())
    qos = settings.qos or next(iter(account_qos), "")
    if accounting.qos is not None:
        if settings.qos is not None and settings.qos not in accounting.qos:
            yield _unknown("qos", settings.qos, account_qos or tuple(accounting.qos))
        elif settings.qos is not None and account_qos and settings.qos not in account_qos:
            yield _unknown("qos", settings.qos, account_qos, f"account {account} may not use '{settings.qos}'")
        elif qos in accounting.qos:
            own_queue = [job for job in queue if job.qos == qos]
            yield from _exceeded(f"qos {qos}", accounting.qos[qos], settings, jobs, own_queue)


def _exceeded(
    owner: str, bounds: Bounds, settings: Settings, jobs: int, queue: Sequence[QueueRow]
) -> Iterator[Refusal]:
    """Limits of one partition, account or qos that the request exceeds. `queue`: its jobs in the queue."""
    if bounds.minutes is not None and settings.time > bounds.minutes:
        problem = f"{settings.time} min is beyond the {bounds.minutes} min of {owner}"
        yield _refusal("time", problem, fix=f"{PREFIX}time={bounds.minutes}")
    user_jobs = sum(job.user == getpass.getuser() for job in queue)
    counts = ((bounds.user_jobs, "of yours", user_jobs), (bounds.group_jobs, "of all users", len(queue)))
    for limit, whose, count in counts:
        if limit is not None and count + jobs > limit:
            problem = (
                f"{plural(jobs, 'job')} on top of {count} {whose} are more than the {limit} that {owner} may have "
                "queued and running (each array task counts)"
            )
            yield _too_many(settings, jobs, limit - count, problem)


def _node_refusals(settings: Settings, partition: Partition, cluster: Cluster) -> Iterator[Refusal]:
    """Resources that no node of the partition has, or too few nodes."""
    nodes = cluster.nodes_of(partition)
    where = f"partition {partition.name}"
    if not nodes:
        yield _refusal("partition", f"{partition.name} has no nodes", fix="use another partition")
        return
    max_nodes = min(len(nodes), partition.max_nodes or len(nodes))
    if settings.nodes > max_nodes:
        yield _refusal("nodes", f"{settings.nodes} are more than the {max_nodes} that a job may have in {where}")
    cpus = settings.tasks_per_node * settings.cpus_per_task
    if cpus > (largest := max(node.cpus for node in nodes)):
        yield _refusal("cpus_per_task", f"{cpus} cores a node are more than the {largest} of any in {where}")
    largest = max(node.memory for node in nodes)
    if settings.memory is not None and units.megabytes(settings.memory) > largest:
        yield _refusal("memory", f"{settings.memory} a node is more than the {largest}M of any in {where}")
    available: dict[str, int] = {}
    for node in nodes:
        available |= {name: max(available.get(name, 0), count) for name, count in node.gres.items()}
    requested = units.gres(settings.gres or "", requested=True)
    if settings.gpus_per_node is not None:
        requested["gpu"] = settings.gpus_per_node
    key = "gres" if settings.gres is not None else "gpus_per_node"
    for name, count in requested.items():
        if name not in available:
            yield _unknown(key, name, tuple(available), f"no node of {where} has '{name}'")
        elif count > available[name]:
            yield _refusal(key, f"{count} {name} a node are more than the {available[name]} of any in {where}")
    features = frozenset().union(*(node.features for node in nodes))
    for name in re.findall(r"[\w.-]*[A-Za-z][\w.-]*", settings.constraint or ""):
        if name not in features:
            problem = f"no node of {where} has the feature '{name}'"
            yield _unknown("constraint", name, tuple(sorted(features)), problem)


def _option_refusals(settings: Settings) -> Iterator[Refusal]:
    """Options in the setting `sbatch` that this cluster's sbatch doesn't have."""
    if not settings.sbatch:
        return
    options = sorted(set(re.findall(r"--([a-z][a-z0-9-]+)", commands.ask("sbatch", "--help").value or "")))
    for name in settings.sbatch:
        if options and name not in options:
            problem = f"this cluster's sbatch has no option '{name}'"
            where = Where(key=f"{PREFIX}sbatch")
            yield Refusal(problem, "unknown_key", where, given=name, nearest=nearest(name, options))


def _refusal(
    key: str, problem: str, *, kind: Kind = "unavailable", names: tuple[str, ...] | None = None, fix: str | None = None
) -> Refusal:
    return Refusal(problem, kind, Where(key=f"{PREFIX}{key}"), expected=names, fix=fix)


def _unknown(key: str, name: str, names: tuple[str, ...], problem: str | None = None) -> Refusal:
    """A refusal of a name that doesn't exist. `names`: the names that do."""
    return Refusal(problem or f"there is no '{name}'", "not_found", Where(key=f"{PREFIX}{key}"), name, names)


def _too_many(settings: Settings, jobs: int, room: int, problem: str) -> Refusal:
    """A refusal of more jobs than a limit allows. `room`: the number of jobs that would still fit."""
    if room < 1:
        fix = "wait until some have ended"
    elif settings.processes > 1:
        fix = f"send at most {room:,} at a time"
    else:
        fix = f"pack runs into fewer jobs: {PREFIX}runs_per_job={settings.per_job * -(-jobs // room)}"
    return Refusal(problem, "unavailable", fix=fix)

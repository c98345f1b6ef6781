"""What the cluster would refuse of a request, or take and never run.

Slurm queues much that it can never run, and refuses the rest one at a time, in the middle of a submission. Here
everything is said before anything is made.
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
from lab.dispatch.launchers.slurm.client.commands import Queued
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.refusals import Kind, Refusal, Where
from lab.units import number_of


def refusals(settings: Settings, jobs: int, root: Path, cluster: Cluster) -> list[Refusal]:
    """Why this can't be sent; empty if it can.

    Args:
        jobs: to be sent, each array task counted.
        root: of the runs.
        cluster: as it stands.
    """
    partition = cluster.partition(settings.partition)
    if partition is None:
        names = tuple(cluster.partitions)
        if settings.partition is None:
            return [_refusal("partition", "the cluster has no default partition", kind="missing", names=names)]
        return [_unknown("partition", settings.partition, names)]
    answer = [*_of_accounting(settings, jobs, partition, cluster), *_of_nodes(settings, partition, cluster)]
    if partition.state != "UP":
        problem = f"{partition.name} is {partition.state} now"
        answer.append(_refusal("partition", problem, fix="use another one, or try again later"))
    if len(cluster.queue) + jobs > cluster.max_jobs:
        problem = (
            f"{number_of(jobs, 'job')} on top of the {len(cluster.queue):,} that the controller holds are more than "
            f"its MaxJobCount of {cluster.max_jobs:,} (each array task counts)"
        )
        answer.append(_too_many(settings, jobs, cluster.max_jobs - len(cluster.queue), problem))
    answer += _of_options(settings)
    if not settings.root_is_shared:
        members = [(node.name, node.address) for node in cluster.nodes_of(partition)]
        hidden = shared_filesystem.refusal(root, members)
        answer += [hidden] if hidden else []
    return answer


def _of_accounting(settings: Settings, jobs: int, partition: Partition, cluster: Cluster) -> Iterator[Refusal]:
    """What partition, account and qos allow of time and of jobs."""
    accounting = cluster.accounting
    account = settings.account or accounting.default_account or ""
    queue = [job for job in cluster.queue if job.live]
    yield from _within(f"partition {partition.name}", Bounds(minutes=partition.minutes), settings, jobs, queue)
    if accounting.accounts is not None:
        if not accounting.accounts:
            problem = f"{getpass.getuser()} has none on this cluster"
            yield _refusal("account", problem, fix="ask its administrators for one")
            return
        if settings.account is not None and settings.account not in accounting.accounts:
            problem = f"you have none called '{settings.account}'"
            yield _unknown("account", settings.account, tuple(accounting.accounts), problem)
            return
        if account in accounting.accounts:
            own = [job for job in queue if job.account == account]
            yield from _within(f"account {account}", accounting.accounts[account], settings, jobs, own)
    allowed = accounting.qos_of.get(account, ())
    qos = settings.qos or next(iter(allowed), "")
    if accounting.qos is not None:
        if settings.qos is not None and settings.qos not in accounting.qos:
            yield _unknown("qos", settings.qos, allowed or tuple(accounting.qos))
        elif settings.qos is not None and allowed and settings.qos not in allowed:
            yield _unknown("qos", settings.qos, allowed, f"account {account} may not use '{settings.qos}'")
        elif qos in accounting.qos:
            own = [job for job in queue if job.qos == qos]
            yield from _within(f"qos {qos}", accounting.qos[qos], settings, jobs, own)


def _within(who: str, bounds: Bounds, settings: Settings, jobs: int, queue: Sequence[Queued]) -> Iterator[Refusal]:
    """What goes beyond the bounds of a partition, account or qos, with these of its jobs in the queue."""
    if bounds.minutes is not None and settings.time > bounds.minutes:
        problem = f"{settings.time} min is beyond the {bounds.minutes} min of {who}"
        yield _refusal("time", problem, fix=f"{PREFIX}time={bounds.minutes}")
    mine = sum(job.user == getpass.getuser() for job in queue)
    for limit, whose, there in ((bounds.submit, "of yours", mine), (bounds.group, "of all users", len(queue))):
        if limit is not None and there + jobs > limit:
            problem = (
                f"{number_of(jobs, 'job')} on top of {there} {whose} are more than the {limit} that {who} may have "
                "queued and running (each array task counts)"
            )
            yield _too_many(settings, jobs, limit - there, problem)


def _of_nodes(settings: Settings, partition: Partition, cluster: Cluster) -> Iterator[Refusal]:
    """What no node has, or not enough of them."""
    nodes = cluster.nodes_of(partition)
    where = f"partition {partition.name}"
    if not nodes:
        yield _refusal("partition", f"{partition.name} has no nodes", fix="use another one")
        return
    most = min(len(nodes), partition.max_nodes or len(nodes))
    if settings.nodes > most:
        yield _refusal("nodes", f"{settings.nodes} are more than the {most} that a job may have in {where}")
    cpus = settings.tasks_per_node * settings.cpus_per_task
    if cpus > (largest := max(node.cpus for node in nodes)):
        yield _refusal("cpus_per_task", f"{cpus} cores a node are more than the {largest} of any in {where}")
    largest = max(node.memory for node in nodes)
    if settings.memory is not None and units.megabytes(settings.memory) > largest:
        yield _refusal("memory", f"{settings.memory} a node is more than the {largest}M of any in {where}")
    known: dict[str, int] = {}
    for node in nodes:
        known |= {name: max(known.get(name, 0), count) for name, count in node.gres.items()}
    requested = units.gres(settings.gres or "", requested=True)
    if settings.gpus_per_node is not None:
        requested["gpu"] = settings.gpus_per_node
    key = "gres" if settings.gres is not None else "gpus_per_node"
    for name, count in requested.items():
        if name not in known:
            yield _unknown(key, name, tuple(known), f"no node of {where} has '{name}'")
        elif count > known[name]:
            yield _refusal(key, f"{count} {name} a node are more than the {known[name]} of any in {where}")
    features = frozenset().union(*(node.features for node in nodes))
    for name in re.findall(r"[\w.-]*[A-Za-z][\w.-]*", settings.constraint or ""):
        if name not in features:
            problem = f"no node of {where} has the feature '{name}'"
            yield _unknown("constraint", name, tuple(sorted(features)), problem)


def _of_options(settings: Settings) -> Iterator[Refusal]:
    if not settings.sbatch:
        return
    known = sorted(set(re.findall(r"--([a-z][a-z0-9-]+)", commands.ask("sbatch", "--help").value or "")))
    for name in settings.sbatch:
        if known and name not in known:
            problem = f"this cluster's sbatch has no option '{name}'"
            where = Where(key=f"{PREFIX}sbatch")
            yield Refusal(problem, "unknown_key", where, given=name, nearest=nearest(name, known))


def _refusal(
    key: str, problem: str, *, kind: Kind = "unavailable", names: tuple[str, ...] | None = None, fix: str | None = None
) -> Refusal:
    return Refusal(problem, kind, Where(key=f"{PREFIX}{key}"), expected=names, fix=fix)


def _unknown(key: str, name: str, names: tuple[str, ...], problem: str | None = None) -> Refusal:
    """There is nothing of that name, but these."""
    return Refusal(problem or f"there is no '{name}'", "not_found", Where(key=f"{PREFIX}{key}"), name, names)


def _too_many(settings: Settings, jobs: int, room: int, problem: str) -> Refusal:
    """There is room for so many jobs only."""
    if room < 1:
        fix = "wait until some have ended"
    elif settings.processes > 1:
        fix = f"send at most {room:,} at a time"
    else:
        fix = f"pack runs into fewer jobs: {PREFIX}runs_per_job={settings.runs_per_job * -(-jobs // room)}"
    return Refusal(problem, "unavailable", fix=fix)

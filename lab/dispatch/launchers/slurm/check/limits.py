"""What the cluster allows, read from the cluster, and what of a request it would not.

Slurm takes much that it never runs (an impossible request waits for ever) and refuses the rest one at a time, in the
middle of a submission. Here all is said before anything is made.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator
from pathlib import Path

from components.registry import nearest, suggestion
from lab.dispatch.launchers.slurm.check import shared_filesystem
from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.client.cluster import Bounds, Cluster, Partition, gres, look
from lab.dispatch.launchers.slurm.send.settings import Settings, megabytes

__all__ = ["Bounds", "Cluster", "look", "refusals"]


def refusals(settings: Settings, jobs: int, root: Path, cluster: Cluster | None = None) -> list[str]:
    """Why this can't be sent, each with what to do; empty if it can.

    Args:
        jobs: to be sent, each array task counted.
        root: of the runs.
        cluster: as it stands; asked for by default.
    """
    if cluster is None:
        found = look()
        if found.value is None:
            return [found.reason or "no SLURM here"]
        cluster = found.value
    partition = cluster.partition(settings.partition)
    if partition is None:
        if settings.partition is None:
            return [f"the cluster has no default partition: set launcher.partition{suggestion('', cluster.partitions)}"]
        return [f"partition: there is no '{settings.partition}'{suggestion(settings.partition, cluster.partitions)}"]
    said = [*_of_accounting(settings, jobs, partition, cluster), *_of_nodes(settings, partition, cluster)]
    if partition.state != "UP":
        said.append(f"partition: {partition.name} is {partition.state} now: use another one, or try again later")
    if len(cluster.queue) + jobs > cluster.max_jobs:
        room = max(0, cluster.max_jobs - len(cluster.queue))
        said.append(
            f"{_jobs(jobs)} on top of the {len(cluster.queue):,} that the controller holds are more than its "
            f"MaxJobCount of {cluster.max_jobs:,} (each array task counts); {_pack(settings, jobs, room)}"
        )
    said += _of_options(settings)
    if not settings.root_is_shared:
        members = [(node.name, node.address) for node in cluster.nodes if partition.name in node.partitions]
        hidden = shared_filesystem.refusal(root, members)
        said += [hidden] if hidden else []
    return said


def _of_accounting(settings: Settings, jobs: int, partition: Partition, cluster: Cluster) -> Iterator[str]:
    """What partition, account and qos allow of time and of jobs."""
    bounds: list[tuple[str, Bounds]] = [(f"partition {partition.name}", Bounds(minutes=partition.minutes))]
    account = settings.account or cluster.default_account or ""
    if cluster.accounts is not None:
        if not cluster.accounts:
            yield f"account: {getpass.getuser()} has none on this cluster: ask its administrators for one"
            return
        if settings.account is not None and settings.account not in cluster.accounts:
            yield f"account: you have none called '{settings.account}'{suggestion(settings.account, cluster.accounts)}"
            return
        if account in cluster.accounts:
            bounds.append((f"account {account}", cluster.accounts[account]))
    qos = settings.qos or next(iter(cluster.qos_of.get(account, ())), "")
    if cluster.qos is not None:
        allowed = cluster.qos_of.get(account, ())
        if settings.qos is not None and settings.qos not in cluster.qos:
            yield f"qos: there is no '{settings.qos}'{suggestion(settings.qos, allowed or cluster.qos)}"
            return
        if settings.qos is not None and allowed and settings.qos not in allowed:
            yield f"qos: account {account} may not use '{settings.qos}'{suggestion('', allowed)}"
            return
        if qos in cluster.qos:
            bounds.append((f"qos {qos}", cluster.qos[qos]))
    live = [job for job in cluster.queue if job.live]
    mine = [job for job in live if job.user == getpass.getuser()]
    for who, bound in bounds:
        kind, _, name = who.partition(" ")
        if bound.minutes is not None and settings.time > bound.minutes:
            yield f"time: {settings.time} min is beyond the {bound.minutes} min of {who}: launcher.time={bound.minutes}"
        for limit, words, which in ((bound.submit, "of yours", mine), (bound.group, "of all users", live)):
            there = sum(getattr(job, kind) == name for job in which)
            if limit is not None and there + jobs > limit:
                yield (
                    f"{_jobs(jobs)} on top of {there} {words} are more than the {limit} that {who} may have queued and "
                    f"running (each array task counts); {_pack(settings, jobs, limit - there)}"
                )


def _of_nodes(settings: Settings, partition: Partition, cluster: Cluster) -> Iterator[str]:
    """What no node, or not enough of them, have."""
    nodes = [node for node in cluster.nodes if partition.name in node.partitions]
    where = f"partition {partition.name}"
    if not nodes:
        yield f"partition: {partition.name} has no nodes: use another one"
        return
    most = min(len(nodes), partition.max_nodes or len(nodes))
    if settings.nodes > most:
        yield f"nodes: {settings.nodes} are more than the {most} that a job may have in {where}"
    cpus = settings.tasks_per_node * settings.cpus_per_task
    if cpus > (largest := max(node.cpus for node in nodes)):
        yield f"cpus_per_task: {cpus} cores a node are more than the {largest} of any in {where}"
    largest = max(node.memory for node in nodes)
    if settings.memory is not None and megabytes(settings.memory) > largest:
        yield f"memory: {settings.memory} a node is more than the {largest}M of any in {where}"
    known: dict[str, int] = {}
    for node in nodes:
        known |= {name: max(known.get(name, 0), count) for name, count in node.gres.items()}
    asked = gres(settings.gres or "", count=1)
    if settings.gpus_per_node is not None:
        asked["gpu"] = settings.gpus_per_node
    key = "gres" if settings.gres is not None else "gpus_per_node"
    for name, count in asked.items():
        if name not in known:
            yield f"{key}: no node of {where} has '{name}'{suggestion(name, known)}"
        elif count > known[name]:
            yield f"{key}: {count} {name} a node are more than the {known[name]} of any in {where}"
    features = frozenset().union(*(node.features for node in nodes))
    for name in re.findall(r"[\w.-]*[A-Za-z][\w.-]*", settings.constraint or ""):
        if name not in features:
            yield f"constraint: no node of {where} has the feature '{name}'{suggestion(name, sorted(features))}"


def _of_options(settings: Settings) -> Iterator[str]:
    if not settings.sbatch:
        return
    known = set(re.findall(r"--([a-z][a-z0-9-]+)", commands.ask("sbatch", "--help").value or ""))
    for name in settings.sbatch:
        if known and name not in known:
            near = nearest(name, sorted(known))
            yield f"sbatch: this cluster's sbatch has no option '{name}'" + (
                f"; did you mean '{near}'?" if near else ""
            )


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"


def _pack(settings: Settings, jobs: int, room: int) -> str:
    """What to do about too many jobs."""
    if room < 1:
        return "wait until some have ended"
    if settings.processes > 1:
        return f"send at most {room:,} at a time"
    return f"pack runs into fewer jobs: launcher.runs_per_job={settings.runs_per_job * -(-jobs // room)}"

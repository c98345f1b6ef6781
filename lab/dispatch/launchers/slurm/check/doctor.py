"""Findings about the cluster, its limits, and every setting of the launcher that it would refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.dispatch.launchers.slurm.check import limits
from lab.dispatch.launchers.slurm.client import cluster as clusters
from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.client.cluster import Bounds, Cluster
from lab.dispatch.launchers.slurm.send import packing, settings
from lab.refusals import Finding, Refusal, RequestError

AREA = "slurm"


def examine(root: Path, launcher: str, overrides: Sequence[str], jobs: int = 1) -> Iterator[Finding]:
    """Findings about Slurm: whether it answers, its limits, and whether jobs with these settings could be sent.

    Args:
        root: the folder that holds all runs.
        launcher: name of the launcher's settings.
        overrides: of the settings, such as `launcher.partition=gpu`.
        jobs: number of jobs that would be sent.
    """
    try:
        cluster = clusters.read_cluster()
    except RequestError as error:
        yield from (_problem(refusal, AREA) for refusal in error.refusals)
        return
    yield _controller(cluster)
    yield from _limits(cluster)
    yield from _accounts(cluster)
    try:
        job_settings = settings.load(launcher, overrides)
    except RequestError as error:
        yield from (_problem(refusal, "launcher") for refusal in error.refusals)
        return
    refusals = limits.refusals(packing.resolved(job_settings, ()), jobs, root, cluster)
    yield from (_problem(refusal, "launcher") for refusal in refusals)
    if not refusals:
        partition = cluster.partition(job_settings.partition)
        name = partition.name if partition is not None else "?"
        message = f"jobs of {job_settings.time} min in partition {name} would be accepted, with runs in {root}"
        yield Finding("launcher", message, facts={"partition": name, "settings": job_settings.as_dict()})


def _problem(refusal: Refusal, area: str) -> Finding:
    finding = Finding.of(refusal, area)
    return finding if finding.fix else dataclasses.replace(finding, fix="change that setting")


def _controller(cluster: Cluster) -> Finding:
    version = (commands.ask("sinfo", "--version").value or "").strip()
    facts = {"version": version, "name": cluster.name}
    return Finding(AREA, f"{version}, cluster {cluster.name}: the controller answers", facts=facts)


def _limits(cluster: Cluster) -> Iterator[Finding]:
    for partition in cluster.partitions.values():
        nodes = cluster.nodes_of(partition)
        gres = sorted({name for node in nodes for name in node.gres})
        cpus = max((node.cpus for node in nodes), default=0)
        default = " (default)" if partition.default else ""
        message = (
            f"partition {partition.name}{default} is {partition.state}: {len(nodes)} nodes of up to {cpus} cores"
            f"{''.join(f', {name}' for name in gres)}; "
            f"{'no time limit' if partition.minutes is None else f'at most {partition.minutes} min'}"
        )
        yield Finding(
            AREA, message, facts=dataclasses.asdict(partition) | {"nodes": len(nodes), "gres": gres, "cpus": cpus}
        )
    message = (
        f"MaxArraySize {cluster.max_array:,}, MaxJobCount {cluster.max_jobs:,}; the controller holds "
        f"{len(cluster.queue):,} jobs now"
    )
    facts = {"MaxArraySize": cluster.max_array, "MaxJobCount": cluster.max_jobs, "queue": len(cluster.queue)}
    yield Finding(AREA, message, facts=facts)


def _accounts(cluster: Cluster) -> Iterator[Finding]:
    accounting = cluster.accounting
    for reason in accounting.problems:
        # Not a problem for a submission: the controller enforces the limits that it has cached.
        yield Finding("accounting", f"unknown: {reason}; how jobs ended may be unknown too")
    if accounting.problems:
        return
    probe = commands.sacct(jobs=["1"])
    if probe.reason is not None:
        yield Finding(
            "accounting", f"none ({probe.reason}): how a job ended is known only for some minutes after its end"
        )
    if accounting.accounts is None:
        yield Finding("accounting", "no limits of accounts are enforced", facts={"accounts": None})
        return
    for name, bounds in accounting.accounts.items():
        default = " (default)" if name == accounting.default_account else ""
        qos_names = accounting.qos_by_account.get(name, ())
        parts = [f"account {name}{default}: {_bounds(bounds)}"]
        parts += [f"qos {qos}: {_bounds((accounting.qos or {}).get(qos, Bounds()))}" for qos in qos_names]
        yield Finding("accounting", "; ".join(parts), facts={"account": name, "qos": list(qos_names)})


def _bounds(bounds: Bounds) -> str:
    parts = [
        bounds.minutes is not None and f"at most {bounds.minutes} min a job",
        bounds.user_jobs is not None and f"{bounds.user_jobs} jobs of yours at a time",
        bounds.group_jobs is not None and f"{bounds.group_jobs} jobs of all users at a time",
    ]
    return ", ".join(part for part in parts if part) or "no limits"

"""What the cluster here is and allows, and what of the launcher's settings it would refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.dispatch.launchers.slurm.check import limits
from lab.dispatch.launchers.slurm.client import cluster as clusters
from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.client.cluster import Bounds, Cluster
from lab.dispatch.launchers.slurm.send import settings
from lab.refusals import Finding, Refusal, RequestError

AREA = "slurm"


def examine(root: Path, launcher: str, overrides: Sequence[str], jobs: int = 1) -> Iterator[Finding]:
    """Whether Slurm is here and answers, its limits, and whether jobs with these settings could be sent.

    Args:
        root: of the runs.
        launcher: name of the settings.
        overrides: of the settings, `launcher.partition=gpu`.
        jobs: how many are to be sent.
    """
    try:
        cluster = clusters.look()
    except RequestError as error:
        yield from (_problem(refusal, AREA) for refusal in error.refusals)
        return
    yield _controller(cluster)
    yield from _limits(cluster)
    yield from _accounts(cluster)
    try:
        chosen = settings.load(launcher, overrides)
    except RequestError as error:
        yield from (_problem(refusal, "launcher") for refusal in error.refusals)
        return
    refusals = limits.refusals(chosen, jobs, root, cluster)
    yield from (_problem(refusal, "launcher") for refusal in refusals)
    if not refusals:
        partition = cluster.partition(chosen.partition)
        name = partition.name if partition is not None else "?"
        message = f"jobs of {chosen.time} min in partition {name} would be taken, with the runs in {root}"
        yield Finding("launcher", message, facts={"partition": name, "settings": chosen.as_dict()})


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
    for reason in accounting.unknown:
        # No reason not to submit: the controller enforces limits that it has read before.
        yield Finding("accounting", f"not known: {reason}; how ended jobs ended may not be told either")
    if accounting.unknown:
        return
    probe = commands.sacct(jobs=["1"])
    if probe.reason is not None:
        yield Finding(
            "accounting", f"none ({probe.reason}): how a job ended is known for some minutes after its end only"
        )
    if accounting.accounts is None:
        yield Finding("accounting", "no limits of accounts are enforced", facts={"accounts": None})
        return
    for name, bounds in accounting.accounts.items():
        default = " (default)" if name == accounting.default_account else ""
        levels = accounting.qos_of.get(name, ())
        parts = [f"account {name}{default}: {_bounds(bounds)}"]
        parts += [f"qos {level}: {_bounds((accounting.qos or {}).get(level, Bounds()))}" for level in levels]
        yield Finding("accounting", "; ".join(parts), facts={"account": name, "qos": list(levels)})


def _bounds(bounds: Bounds) -> str:
    parts = [
        bounds.minutes is not None and f"at most {bounds.minutes} min a job",
        bounds.submit is not None and f"{bounds.submit} jobs of yours at a time",
        bounds.group is not None and f"{bounds.group} jobs of all users at a time",
    ]
    return ", ".join(part for part in parts if part) or "no limits"

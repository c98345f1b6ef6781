"""What the cluster here is and allows, and what of the launcher's settings it would refuse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.dispatch.launchers.slurm.check import limits
from lab.dispatch.launchers.slurm.client import cluster as clusters
from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.client.cluster import Bounds, Cluster
from lab.dispatch.launchers.slurm.send import settings
from lab.dispatch.status.doctor import Finding
from lab.refusals import RequestError

AREA = "slurm"


def examine(root: Path, launcher: str, overrides: Sequence[str], jobs: int = 1) -> Iterator[Finding]:
    """Whether Slurm is here and answers, its limits, and whether jobs with these settings could be sent.

    Args:
        root: of the runs.
        launcher: name of the settings.
        overrides: of the settings, `launcher.partition=gpu`.
        jobs: how many are to be sent.
    """
    found = clusters.look()
    if found.value is None:
        what, _, fix = (found.reason or "no SLURM here").partition("; ")
        yield Finding(AREA, what, fix or "see `scontrol ping`")
        return
    cluster = found.value
    yield _controller()
    yield from _limits(cluster)
    yield from _accounts(cluster)
    try:
        chosen = settings.load(launcher, overrides)
    except RequestError as error:
        yield Finding("launcher", str(error), "mend that setting")
        return
    refused = limits.refusals(chosen, jobs, root, cluster)
    for reason in refused:
        what, _, fix = reason.partition(": use ") if ": use " in reason else reason.partition("; ")
        yield Finding("launcher", what, fix or "change that setting")
    if not refused:
        partition = cluster.partition(chosen.partition)
        name = partition.name if partition is not None else "?"
        said = f"jobs of {chosen.time} min in partition {name} would be taken, with the runs in {root}"
        yield Finding("launcher", said, facts={"partition": name, "settings": chosen.as_dict()})


def _controller() -> Finding:
    version = (commands.ask("sinfo", "--version").value or "").strip()
    config = commands.configuration().value or {}
    name = config.get("ClusterName", "?")
    return Finding(AREA, f"{version}, cluster {name}: the controller answers", facts={"version": version, "name": name})


def _limits(cluster: Cluster) -> Iterator[Finding]:
    for each in cluster.partitions.values():
        nodes = [node for node in cluster.nodes if each.name in node.partitions]
        gres = sorted({name for node in nodes for name in node.gres})
        facts: dict[str, Any] = {
            "name": each.name, "default": each.default, "state": each.state, "minutes": each.minutes,
            "max_nodes": each.max_nodes, "nodes": len(nodes), "gres": gres,
            "cpus": max((node.cpus for node in nodes), default=0),
        }  # fmt: skip
        said = f"partition {each.name}{' (default)' if each.default else ''} is {each.state}: {len(nodes)} nodes"
        said += f" of up to {facts['cpus']} cores{''.join(f', {one}' for one in gres)}"
        said += f"; {'no time limit' if each.minutes is None else f'at most {each.minutes} min'}"
        yield Finding(AREA, said, facts=facts)
    facts = {"MaxArraySize": cluster.max_array, "MaxJobCount": cluster.max_jobs, "queue": len(cluster.queue)}
    said = (
        f"MaxArraySize {cluster.max_array:,}, MaxJobCount {cluster.max_jobs:,}; the controller holds "
        f"{len(cluster.queue):,} jobs now"
    )
    yield Finding(AREA, said, facts=facts)


def _accounts(cluster: Cluster) -> Iterator[Finding]:
    for reason in cluster.unknown:
        # No reason not to submit: the controller enforces limits that it has read before.
        yield Finding("accounting", f"not known: {reason}; how ended jobs ended may not be told either")
    if cluster.unknown:
        return
    probe = commands.sacct(jobs=["1"])
    if probe.reason is not None:
        yield Finding(
            "accounting", f"none ({probe.reason}): how a job ended is known for some minutes after its end only"
        )
    if cluster.accounts is None:
        yield Finding("accounting", "no limits of accounts are enforced", facts={"accounts": None})
        return
    for name, bounds in cluster.accounts.items():
        default = " (default)" if name == cluster.default_account else ""
        levels = cluster.qos_of.get(name, ())
        said = f"account {name}{default}: {_bounds(bounds)}"
        for level in levels:
            said += f"; qos {level}: {_bounds((cluster.qos or {}).get(level, Bounds()))}"
        yield Finding("accounting", said, facts={"account": name, "qos": list(levels)})


def _bounds(bounds: Bounds) -> str:
    said = [] if bounds.minutes is None else [f"at most {bounds.minutes} min a job"]
    said += [] if bounds.submit is None else [f"{bounds.submit} jobs of yours at a time"]
    said += [] if bounds.group is None else [f"{bounds.group} jobs of all users at a time"]
    return ", ".join(said) or "no limits"

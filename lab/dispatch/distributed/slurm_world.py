"""The processes that srun started: this one's rank, and the address of the first."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import psutil

from lab.dispatch.launchers.slurm.client import commands
from lab.refusals import RequestError
from lab.training.parallel.world import Strategy, World

_PORTS = range(15_000, 30_000)  # below the ports that Linux uses for outgoing connections


def world(
    strategy: Strategy = "ddp",
    environment: Mapping[str, str] | None = None,
    *,
    address: str | None = None,
    port: int | None = None,
) -> World:
    """The processes of a Slurm step, from its environment variables.

    Args:
        strategy: how the processes share a run.
        environment: environment variables; this process's own by default.
        address: of the first process's node. The default is MASTER_ADDR, or else the step's first node: its name if
            that can be resolved, otherwise the address that Slurm has for it.
        port: by default MASTER_PORT, or else a port derived from the numbers of the job and the step.
    Raises:
        RequestError: the process is not part of a Slurm step, or the first node's address can't be determined.
    """
    variables = os.environ if environment is None else environment
    size, rank = _number(variables, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), _number(variables, "SLURM_PROCID")
    if size == 1:
        return World()
    nodes = _number(variables, "SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    if port is None:
        port = int(variables["MASTER_PORT"]) if "MASTER_PORT" in variables else _port(variables)
    return World(
        rank=rank,
        size=size,
        local_rank=_number(variables, "SLURM_LOCALID"),
        nodes=nodes,
        strategy=strategy,
        address=address or variables.get("MASTER_ADDR") or _reachable(_hosts(variables)[0]),
        port=port,
    )


def interface(world: World, environment: Mapping[str, str] | None = None) -> str | None:
    """The network interface that reaches the other nodes. None if it doesn't matter or can't be determined.

    torch would take the interface of this machine's own host name, which is often the loopback.
    """
    if world.nodes == 1:
        return None
    target = world.address
    if world.first:
        hosts = _hosts(os.environ if environment is None else environment)
        target = _reachable(hosts[-1])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((target, world.port))  # sends nothing: only chooses the route
            own = probe.getsockname()[0]
    except OSError:
        return None
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, addresses in interfaces if any(entry.address == own for entry in addresses)), None)


def _number(variables: Mapping[str, str], *names: str) -> int:
    for name in names:
        if name in variables:
            return int(variables[name])
    raise RequestError(f"{names[-1]} is not set: start the processes of a run with srun, inside a job")


def _port(variables: Mapping[str, str]) -> int:
    job, step = _number(variables, "SLURM_JOB_ID"), variables.get("SLURM_STEP_ID", "0")
    # Differs between the steps of a job, and between jobs on the same node.
    return _PORTS[(7 * job + (int(step) if step.isdecimal() else 0)) % len(_PORTS)]


def _hosts(variables: Mapping[str, str]) -> list[str]:
    """The names of the step's nodes, in order."""
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise RequestError("SLURM_STEP_NODELIST is not set: set MASTER_ADDR=<address of the first process's node>")
    if "[" not in nodes:
        return nodes.split(",")
    answer = commands.ask("scontrol", "show", "hostnames", nodes)
    if not answer.value:
        raise RequestError(
            f"the first of the nodes {nodes} can't be determined ({answer.reason or 'no answer'}): set "
            "MASTER_ADDR=<address of the first process's node>"
        )
    return answer.value.split()


def _reachable(host: str) -> str:
    """A node's name if it can be resolved, otherwise the address by which Slurm's daemons reach it."""
    if _resolves(host):
        return host
    answer = commands.ask("scontrol", "--oneliner", "show", "node", host)
    address = commands.key_values(answer.value).get("NodeAddr", "") if answer.value else ""
    if not address or not _resolves(address):
        raise RequestError(
            f"the name of node {host} can't be resolved, and Slurm has no address for it: set "
            "MASTER_ADDR=<address of the first process's node>"
        )
    return address


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False

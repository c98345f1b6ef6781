"""This process's rank among those that srun started, and the address of the first one."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import psutil

from lab.dispatch.launchers.slurm.client import commands
from lab.refusals import RequestError
from lab.training.parallel.world import Strategy, World

_PORTS = range(15_000, 30_000)  # below those that Linux gives to outgoing connections


def world(
    strategy: Strategy = "ddp",
    environment: Mapping[str, str] | None = None,
    *,
    address: str | None = None,
    port: int | None = None,
) -> World:
    """The world of a Slurm step's processes, from its variables.

    Args:
        environment: of this process; by default its own.
        address: of the first process's node; by default MASTER_ADDR, or else the step's first node, by its name where
            that can be looked up and by the address that Slurm knows it by where it can't.
        port: by default MASTER_PORT, or else one that follows from the job's and the step's number.
    Raises:
        RequestError: the process is not part of a Slurm step, or the first node's address can't be found out.
    """
    known = os.environ if environment is None else environment
    size, rank = _number(known, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), _number(known, "SLURM_PROCID")
    if size == 1:
        return World()
    nodes = _number(known, "SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    if port is None:
        port = int(known["MASTER_PORT"]) if "MASTER_PORT" in known else _port(known)
    return World(
        rank=rank,
        size=size,
        local_rank=_number(known, "SLURM_LOCALID"),
        nodes=nodes,
        strategy=strategy,
        address=address or known.get("MASTER_ADDR") or _reachable(_hosts(known)[0]),
        port=port,
    )


def interface(world: World, environment: Mapping[str, str] | None = None) -> str | None:
    """The network interface through which other nodes are reached; None where it doesn't matter or can't be told.

    torch would take the one that this machine's own name stands for, which on many is the loopback.
    """
    if world.nodes == 1:
        return None
    towards = world.address
    if world.first:
        hosts = _hosts(os.environ if environment is None else environment)
        towards = _reachable(hosts[-1])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((towards, world.port))  # sends nothing, and chooses the way
            own = probe.getsockname()[0]
    except OSError:
        return None
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, found in interfaces if any(each.address == own for each in found)), None)


def _number(known: Mapping[str, str], *names: str) -> int:
    for name in names:
        if name in known:
            return int(known[name])
    raise RequestError(f"{names[-1]} is not set: several processes of a run are started by srun, inside a job")


def _port(known: Mapping[str, str]) -> int:
    job, step = _number(known, "SLURM_JOB_ID"), known.get("SLURM_STEP_ID", "0")
    # Steps of a job, and jobs side by side on a node, have different ones.
    return _PORTS[(7 * job + (int(step) if step.isdecimal() else 0)) % len(_PORTS)]


def _hosts(known: Mapping[str, str]) -> list[str]:
    """Names of the step's nodes, in its order."""
    nodes = known.get("SLURM_STEP_NODELIST") or known.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise RequestError("SLURM_STEP_NODELIST is not set: MASTER_ADDR=<address of the first process's node> helps")
    if "[" not in nodes:
        return nodes.split(",")
    shown = commands.ask("scontrol", "show", "hostnames", nodes)
    if not shown.value:
        raise RequestError(
            f"the first of {nodes} can't be found out ({shown.reason or 'no answer'}): set "
            "MASTER_ADDR=<address of the first process's node>"
        )
    return shown.value.split()


def _reachable(host: str) -> str:
    """A node's name if it can be looked up, else the address by which Slurm's own daemons reach it."""
    if _resolves(host):
        return host
    shown = commands.ask("scontrol", "--oneliner", "show", "node", host)
    address = commands.key_values(shown.value).get("NodeAddr", "") if shown.value else ""
    if not address or not _resolves(address):
        raise RequestError(
            f"the name of node {host} can't be looked up, and Slurm knows no address for it: set "
            "MASTER_ADDR=<address of the first process's node>"
        )
    return address


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False

"""A cluster to play with: `python -m tests.slurm.cluster up`, `status`, `down`, `install`."""

from __future__ import annotations

import argparse
import fcntl
import sys
from pathlib import Path

from tests.slurm.cluster import FOLDER, KEEP, USERS, Cluster
from tests.slurm.packages import ClusterError, install


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.cluster", description=__doc__)
    parser.add_argument("do", choices=("up", "status", "down", "install", "guard"), help="what to do")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the cluster lives (default: %(default)s)")
    chosen = parser.parse_args()
    try:
        if chosen.do == "install":
            install()
        else:
            {"up": up, "status": status, "down": down, "guard": guard}[chosen.do](chosen.folder.resolve())
    except ClusterError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def up(folder: Path) -> None:
    cluster = running(folder)
    if cluster is None:
        down(folder)
        cluster = Cluster.start(folder, outlive=True)
        print(f"A Slurm of {len(cluster.nodes)} nodes is up, in {folder}; the logs are in {folder / 'log'}.")
    else:
        print(f"It is up already, in {folder}.")
    print(f"Use it:   export SLURM_CONF={cluster.conf}\n          sinfo\nStop it:  make slurm-down")


def status(folder: Path) -> None:
    cluster = running(folder)
    if cluster is None:
        print(f"No cluster is up in {folder}. `make slurm-up` starts one.")
        sys.exit(1)
    print(f"export SLURM_CONF={cluster.conf}\n")
    print(cluster.run("sinfo").stdout + cluster.run("squeue").stdout, end="")


def down(folder: Path) -> None:
    """End and delete what is there, half dead or whole."""
    if (cluster := found(folder)) is not None:
        cluster.remove()


def guard(folder: Path) -> None:
    """Remove the cluster once every process that uses it has ended, in whatever way; logs that one wants stay."""
    with (folder / USERS).open() as users:
        fcntl.flock(users, fcntl.LOCK_EX)
        are_wanted = (folder / KEEP).exists()
        if (cluster := found(folder)) is not None:
            cluster.stop() if are_wanted else cluster.remove()


def found(folder: Path) -> Cluster | None:
    try:
        return Cluster(folder)
    except FileNotFoundError:
        return None


def running(folder: Path) -> Cluster | None:
    cluster = found(folder)
    return cluster if cluster is not None and cluster.up() else None

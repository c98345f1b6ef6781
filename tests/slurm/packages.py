"""The programs that a cluster needs, and how they come onto Debian and Ubuntu."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "srun", "sacct", "sacctmgr")
PACKAGES = (
    "munge", "mariadb-server-core", "slurmdbd", "slurm-wlm-mysql-plugin", "slurmctld", "slurmd", "slurm-client",
)  # fmt: skip
POLICY = Path("/usr/sbin/policy-rc.d")
SEARCHED = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))


class ClusterError(Exception):
    """The cluster can't be had or doesn't do what it was asked; the message says why, and where the log is."""


def program(name: str) -> str:
    """Its path. Daemons live in `sbin`, which a plain user's PATH may lack.

    Raises:
        ClusterError: it isn't installed.
    """
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        raise ClusterError(f"{name} isn't installed here. {remedy()}")
    return found


def missing() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]


def can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def remedy() -> str:
    if can_install():
        return "`make slurm-packages` installs what is missing."
    return "As root on Debian or Ubuntu, `make slurm-packages` installs it."


def install() -> None:
    """Install the packages, unless every program is there; none of their daemons is started.

    Raises:
        ClusterError: not root on Debian or Ubuntu, or apt-get failed.
    """
    if not missing():
        return
    if not can_install():
        raise ClusterError(f"Can't install Slurm here ({', '.join(missing())} missing). {remedy()}")
    with _no_daemon_starts():
        _apt_get("update", "-qq")
        _apt_get("install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
    if still := missing():
        raise ClusterError(f"The packages are installed, but {', '.join(still)} is still missing.")


def _apt_get(*arguments: str) -> None:
    done = subprocess.run(
        ["apt-get", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise ClusterError(f"apt-get {arguments[0]} failed:\n{done.stdout[-2000:]}")


@contextmanager
def _no_daemon_starts() -> Iterator[None]:
    """The packages' own services would take the default ports; Debian asks this file whether they may start."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()

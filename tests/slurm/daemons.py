"""The processes of one cluster: munged, mariadbd, slurmdbd, slurmctld and a slurmd a node, each known by its id.

Their ids are recorded in the folder, so that any process can end what another has started.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.slurm.configuration import Configuration
from tests.slurm.packages import ClusterError, program
from tests.slurm.process import (
    PATIENCE,
    Process,
    eventually,
    holding_sockets_below,
    launch,
    tail,
    with_environment,
)

RECORD = "cluster.json"
OWN_VARIABLES = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SQUEUE", "SACCT", "SINFO", "SCANCEL", "SCONTROL", "SPRIO")


class Daemons:
    """`configuration.folder` holds their files and, in `log`, what each of them said."""

    def __init__(self, configuration: Configuration, processes: dict[str, Process] | None = None) -> None:
        self.configuration = configuration
        self.folder = configuration.folder
        self._processes = processes or {}

    @classmethod
    def of(cls, folder: Path) -> Daemons:
        """Those that were started in `folder`, by whichever process."""
        record = json.loads((folder / RECORD).read_text())
        configuration = Configuration(**{**record["configuration"], "folder": folder})
        return cls(configuration, {name: Process(*numbers) for name, numbers in record["processes"].items()})

    def environment(self) -> dict[str, str]:
        """This process's environment with this cluster as the only one."""
        outer = {name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)}
        return {**outer, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def write_files(self) -> None:
        nodes = self.configuration.node_names()
        for name in ("log", "state", "gpu", "database/mysql", *(f"spool/{node}" for node in nodes)):
            (self.folder / name).mkdir(parents=True)
        for name in ("gpu/0", "gpu/1"):
            (self.folder / name).touch()
        self.write_slurm_conf()
        write(self.folder / "gres.conf", self.configuration.gres_conf())
        write(self.folder / "slurmdbd.conf", self.configuration.slurmdbd_conf())
        write(self.folder / "munge.key", secrets.token_hex(512))
        self.save()

    def write_slurm_conf(self, options: dict[str, str] | None = None) -> None:
        write(self.folder / "slurm.conf", self.configuration.slurm_conf(options or {}))

    def save(self) -> None:
        configuration = {**dataclasses.asdict(self.configuration), "folder": str(self.folder)}
        processes = {name: dataclasses.astuple(process) for name, process in self._processes.items()}
        write(self.folder / RECORD, json.dumps({"configuration": configuration, "processes": processes}))

    def log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    # Each of them

    def start_munge(self) -> None:
        files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        flags = [f"--{flag}={self.folder / name}" for flag, name in files.items()]
        # --force: nobody else can reach the socket; munged warns of that, and it is what we want.
        flags += [f"--log-file={self.folder / 'log' / 'munge.log'}", "--force", "--num-threads=4"]
        self._launch("munged", "--foreground", *flags)
        self._wait_for("munged", self.configuration.munge_socket().exists)

    def start_database(self) -> None:
        """mariadb-install-db needs more packages, and takes longer, than the statements it would send."""
        flags = self.configuration.database_flags()
        scripts = [_sql("mysql_system_tables.sql"), _sql("mysql_system_tables_data.sql")]
        statements = ["use mysql;", *(script.read_text() for script in scripts), "create database slurm;"]
        log = self.log("mariadbd")
        with log.open("ab") as output:
            bootstrap = [program("mariadbd"), *flags, "--bootstrap"]
            done = subprocess.run(bootstrap, input="\n".join(statements).encode(), stdout=output, stderr=output)
        if done.returncode != 0:
            raise ClusterError(f"mariadbd --bootstrap failed.\n{tail(log)}")
        where = (f"--socket={self.configuration.database_socket()}", f"--pid-file={self.folder / 'mariadbd.pid'}")
        self._launch("mariadbd", *flags, "--skip-networking", *where)
        self._wait_for("mariadbd", self.configuration.database_socket().exists)

    def start_accounting(self) -> None:
        self._launch("slurmdbd", "-D", "-s", MYSQL_UNIX_PORT=str(self.configuration.database_socket()))
        self._wait_for("slurmdbd", lambda: _connects(self.configuration.port))

    def start_controller(self) -> None:
        self._launch("slurmctld", "-D", "-s")
        self._wait_for("slurmctld", lambda: _connects(self.configuration.port + 1))

    def start_node(self, node: str) -> None:
        """Start its slurmd; slurmctld hears of it a moment later."""
        self._launch("slurmd", "-D", "-s", "-N", node, name=node)

    # All of them

    def alive(self, name: str) -> bool:
        return name in self._processes and self._processes[name].alive()

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        if name in self._processes:
            self._processes[name].end(number)

    def kill_node(self, node: str) -> None:
        """SIGKILL to its slurmd and to every step and task that it started."""
        self.end(node, signal.SIGKILL)
        # A step may start another process while it is looked at: until nothing is left.
        eventually(lambda: not self._kill_work_of(node), 5.0)

    def _kill_work_of(self, node: str) -> list[Process]:
        left = holding_sockets_below(self.folder / "spool" / node)
        left += with_environment(SLURM_CONF=str(self.folder / "slurm.conf"), SLURMD_NODENAME=node)
        for process in left:
            process.send(signal.SIGKILL)
        return left

    def kill_tasks(self, mark: str | None = None) -> None:
        """SIGKILL to every task of the jobs with this wckey, or of every job; their slurmds see them end."""
        marks = {} if mark is None else {"SBATCH_WCKEY": mark}
        for process in with_environment(
            SLURM_CONF=str(self.folder / "slurm.conf"), SLURM_JOB_UID=str(os.getuid()), **marks
        ):
            process.send(signal.SIGKILL)

    def stop(self) -> None:
        """End every process of the cluster, and the jobs first."""
        for node in self.configuration.node_names():
            self.kill_node(node)
        for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
            self.end(name, signal.SIGKILL)  # whatever they would save is thrown away

    def _launch(self, command: str, *arguments: str, name: str = "", **variables: str) -> None:
        name = name or command
        whole = [program(command), *arguments]
        self._processes[name] = launch(whole, self.log(name), {**self.environment(), **variables})
        self.save()

    def _wait_for(self, name: str, ready: Callable[[], bool], seconds: float = PATIENCE) -> None:
        in_time = eventually(lambda: not self.alive(name) or ready(), seconds)
        if not self.alive(name):
            raise ClusterError(f"{name} ended while it started.\n{tail(self.log(name))}")
        if not in_time:
            raise ClusterError(f"{name} wasn't ready in {seconds:g} s.\n{tail(self.log(name))}")


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row, below those that the system hands out to clients."""
    for _ in range(100):
        first = random.randrange(20_000, 32_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return first
    raise ClusterError(f"There are no {count} free ports in a row.")


def write(path: Path, text: str) -> None:
    """For its owner only, as slurmdbd and munged demand of their files, and whole or not at all."""
    part = path.with_name(f".{path.name}")
    part.touch(mode=0o600)
    part.write_text(text)
    part.replace(path)


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _sql(name: str) -> Path:
    for folder in (Path("/usr/share/mysql"), Path("/usr/share/mariadb")):
        if (folder / name).exists():
            return folder / name
    raise ClusterError(f"{name} isn't in /usr/share/mysql, where MariaDB's server packages put it.")

"""The files of one cluster: Slurm's `slurm.conf`, `slurmdbd.conf` and `gres.conf`, and how its database starts.

Everything lies below one folder and listens on loopback, munge and the database on sockets in that folder. Slurm 22.05
can't bind slurmdbd to one address; the folder's own munge key is what keeps others out.
"""

from __future__ import annotations

import getpass
from dataclasses import dataclass, field
from pathlib import Path

# Socket paths end at 108 bytes, and Slurm puts one for every step below the folder.
LONGEST_FOLDER = 60

# What a test may rely on. `options` of Cluster.start replaces single keys, and Slurm itself refuses unknown ones.
SETTINGS = {
    "ClusterName": "lab",
    "SlurmctldHost": "localhost(127.0.0.1)",
    "AuthType": "auth/munge",
    "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
    # No cgroups, no plugins that need more than a plain process tree.
    "ProctrackType": "proctrack/linuxproc",
    "JobAcctGatherType": "jobacct_gather/linux",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU",
    "SlurmdParameters": "config_overrides",
    "GresTypes": "gpu",
    "ReturnToService": "2",
    "JobRequeue": "1",
    # A dead node is noticed after 15 to 19 s; Slurm's own values (300 and 10) make that minutes.
    "SlurmdTimeout": "10",
    "MessageTimeout": "5",
    # From SIGTERM to SIGKILL.
    "KillWait": "5",
    "EnforcePartLimits": "ALL",
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "AccountingStorageEnforce": "associations,limits,qos",
    # A job of a higher tier sends one of a lower back to the queue.
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,bf_interval=2",
}

PARTITIONS = {
    "main": "Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=10",
    "short": "MaxTime=1 PriorityTier=10 OverTimeLimit=0",
    "scavenge": "MaxTime=INFINITE DefaultTime=60 PriorityTier=1 GraceTime=10 PreemptMode=REQUEUE",
}

# Commands for sacctmgr, half a second each. `research`, the default account, has no limits; `small` and the qos
# `capped` have some to run into.
ACCOUNTS = """\
add cluster lab
add qos capped MaxSubmitJobsPerUser=4 MaxJobsPerUser=2 MaxWall=00:10:00
add account research
add account small MaxSubmitJobs=5
add user {user} account=research,small DefaultAccount=research QosLevel=normal,capped
"""


@dataclass(frozen=True)
class Configuration:
    """What a cluster is made of. `port` is the first of 2 + `nodes` in a row: slurmdbd, slurmctld, each slurmd.

    Attributes:
        cpus: declared for each node, whatever the machine has; memory isn't counted.
        requeue_delay: seconds that Slurm holds a requeued job back (its own default is 120).
        options: further keys of slurm.conf, or other values for those above.
    """

    folder: Path
    port: int
    nodes: int = 4
    cpus: int = 8
    max_array_size: int = 1001
    max_job_count: int = 10_000
    requeue_delay: int = 10
    options: dict[str, str] = field(default_factory=dict)

    def node_names(self) -> list[str]:
        return [f"n{i}" for i in range(1, self.nodes + 1)]

    def munge_socket(self) -> Path:
        return self.folder / "munge.sock"

    def database_socket(self) -> Path:
        return self.folder / "mysql.sock"

    def slurm_conf(self, more_options: dict[str, str]) -> str:
        slurmd_ports = f"{self.port + 2}-{self.port + 1 + self.nodes}"
        user = getpass.getuser()
        settings = {
            **SETTINGS,
            "AuthInfo": f"socket={self.munge_socket()},cred_expire={self.requeue_delay}",
            "SlurmctldPort": self.port + 1,
            "SlurmUser": user,
            "SlurmdUser": user,
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": self.port,
            "AccountingStoragePass": self.munge_socket(),
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": self.folder / "spool" / "%n",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": self.folder / "%n.pid",
            "SlurmdLogFile": self.folder / "log" / "%n.steps.log",
            "MaxArraySize": self.max_array_size,
            "MaxJobCount": self.max_job_count,
            **self.options,
            **more_options,
        }
        nodes = (
            f"NodeName=n[1-{self.nodes}] NodeAddr=127.0.0.1 Port=[{slurmd_ports}] CPUs={self.cpus} RealMemory=64000"
            " Gres=gpu:2 Feature=cpu"
        )
        partitions = (f"PartitionName={name} Nodes=ALL {rest}" for name, rest in PARTITIONS.items())
        return "\n".join([*(f"{key}={value}" for key, value in settings.items()), nodes, *partitions, ""])

    def gres_conf(self) -> str:
        """Two GPUs a node that are no GPUs: a request for one is granted and sets CUDA_VISIBLE_DEVICES."""
        return f"Name=gpu File={self.folder / 'gpu'}/[0-1]\n"

    def slurmdbd_conf(self) -> str:
        settings = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self.munge_socket()}",
            "DbdHost": "localhost",
            "DbdAddr": "127.0.0.1",
            "DbdPort": self.port,
            "SlurmUser": getpass.getuser(),
            "PidFile": self.folder / "slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",  # a socket: MYSQL_UNIX_PORT says which
            "StorageUser": "root",
            "StorageLoc": "slurm",
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())

    def database_flags(self) -> list[str]:
        """For mariadbd: small, and quick rather than durable, as all of it is thrown away."""
        return [
            "--no-defaults",
            f"--user={getpass.getuser()}",
            f"--datadir={self.folder / 'database'}",
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--skip-innodb-doublewrite",
            "--skip-log-bin",
        ]

"""A real Slurm on this machine: slurmctld, slurmdbd on its own MariaDB, munge, and a slurmd for each virtual node.

    with Cluster.start() as cluster:
        job = cluster.sbatch("--wrap", "hostname")
        cluster.wait_for(job, "COMPLETED")

Several processes may use one (`join`); it ends after the last of them. `of_one_test` gives a test its own view of a
cluster that others use too: it sees, and clears away, its own jobs only.

By hand: `python -m tests.slurm.cluster up`, `status`, `down`, and `install` (as root on Debian or Ubuntu).
"""

from __future__ import annotations

import csv
import fcntl
import getpass
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

from tests.forked import REAL_PYTHON
from tests.slurm.configuration import ACCOUNTS, LONGEST_FOLDER, Configuration
from tests.slurm.daemons import Daemons, free_ports
from tests.slurm.packages import ClusterError, missing, program, remedy
from tests.slurm.process import PATIENCE, eventually, tail

FOLDER = Path(tempfile.gettempdir()) / f"lab-slurm-{getpass.getuser()}"  # of the cluster that `up` starts

USERS, KEEP = "users.lock", "keep"  # in a cluster's folder: who uses it hold the one; with the other its logs stay

Found = TypeVar("Found")
Row = dict[str, str]


class Cluster:
    """One running cluster. Everything it consists of lies in `folder`, and every process it started is known by id.

    Attributes:
        folder: configuration, state, spool and, in `log`, what each daemon said.
        nodes: names of the nodes; they don't resolve, so a process group over several needs MASTER_ADDR=127.0.0.1.
    """

    def __init__(self, folder: Path, mark: str | None = None) -> None:
        """The cluster that was started in `folder`, by whichever process.

        Args:
            mark: of this view's own jobs; None for all jobs.
        """
        self.folder = folder
        self._mark = mark
        self._daemons = Daemons.of(folder)
        self.nodes = self._daemons.configuration.node_names()
        self._guard: subprocess.Popen[bytes] | None = None
        self._hold: IO[str] | None = None

    # Starting and stopping

    @classmethod
    def start(
        cls,
        folder: Path | None = None,
        *,
        nodes: int = 4,
        cpus: int = 8,
        max_array_size: int = 1001,
        max_job_count: int = 10_000,
        requeue_delay: int = 10,
        options: dict[str, str] | None = None,
        outlive: bool = False,
    ) -> Cluster:
        """Start one in an empty folder, or in a new one below the temporary folder; all nodes are idle on return.

        Args:
            requeue_delay: seconds that Slurm holds a requeued job back (its own default is 120).
            options: other keys of slurm.conf, e.g. {"MinJobAge": "5"}.
            outlive: leave it running when all processes that use it have ended; else it is removed then, even after a
                SIGKILL.

        Raises:
            ClusterError: programs are missing, or a daemon didn't start; says which, with the end of its log.
        """
        if absent := missing():
            raise ClusterError(f"{', '.join(absent)} missing. {remedy()}")
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="lab-slurm-"))
        folder = folder.resolve()
        if len(str(folder)) > LONGEST_FOLDER:
            raise ClusterError(f"{folder}: longer than {LONGEST_FOLDER} characters, too long for Slurm's sockets.")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ClusterError(f"{folder} isn't empty.")
        configuration = Configuration(
            folder, free_ports(2 + nodes), nodes, cpus, max_array_size, max_job_count, requeue_delay, options or {}
        )
        daemons = Daemons(configuration)
        daemons.write_files()
        cluster = cls(folder)
        (folder / USERS).touch()
        cluster._hold = _held(folder)
        if not outlive:
            guard = [REAL_PYTHON, "-m", "tests.slurm.cluster", "guard", "--folder", str(folder)]
            cluster._guard = subprocess.Popen(guard, cwd=Path(__file__).parents[2], start_new_session=True)
        try:
            cluster._start()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @classmethod
    def join(cls, folder: Path) -> Cluster | None:
        """The cluster in `folder`, which stays up until this process ends or leaves it; None if none is up there."""
        try:
            hold = _held(folder)
            cluster = cls(folder)
        except FileNotFoundError:
            return None
        cluster._hold = hold
        if not cluster.up():
            cluster.leave()
            return None
        return cluster

    def of_one_test(self) -> Cluster:
        """A view of the cluster with jobs of its own, known by their wckey; it can do nothing to the cluster itself."""
        return Cluster(self.folder, f"test-{secrets.token_hex(4)}")

    def leave(self, *, keep_logs: bool = False) -> None:
        """Use it no longer. If nobody else does, it is removed, unless it was started to outlive its users."""
        if keep_logs:
            (self.folder / KEEP).touch()
        if self._hold is not None:
            self._hold.close()
            self._hold = None

    def _start(self) -> None:
        self._daemons.start_munge()
        self._daemons.start_database()
        self._daemons.start_accounting()
        done = self.run("sacctmgr", "-i", input=ACCOUNTS.format(user=getpass.getuser()))
        if "rror" in done.stdout + done.stderr:
            raise ClusterError(f"sacctmgr refused:\n{done.stdout}{done.stderr}")
        self._daemons.start_controller()
        for node in self.nodes:
            self._daemons.start_node(node)
        self._wait_for_nodes(*self.nodes)

    def stop(self) -> None:
        """End every process of the cluster, its jobs among them. The folder, with the logs, stays."""
        self._daemons.stop()
        self.leave(keep_logs=True)
        if self._guard is not None:
            self._guard.wait()
            self._guard = None

    def remove(self) -> None:
        """Stop, and delete the folder with the logs."""
        self.stop()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def up(self) -> bool:
        """Whether every daemon is alive."""
        return all(map(self._daemons.alive, ("munged", "mariadbd", "slurmdbd", "slurmctld", *self.nodes)))

    # Talking to it

    @property
    def conf(self) -> Path:
        """What SLURM_CONF must name."""
        return self.folder / "slurm.conf"

    def environment(self) -> dict[str, str]:
        """This process's environment with this cluster as the only one: for subprocesses, `lab` among them."""
        marks = {} if self._mark is None else {"SBATCH_WCKEY": self._mark, "SLURM_WCKEY": self._mark}
        return self._daemons.environment() | marks

    def run(
        self, command: str, *arguments: str, check: bool = True, input: str = "", seconds: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """One of Slurm's commands: run("squeue", "--me").

        Raises:
            ClusterError: it failed (unless `check` is False) or took longer than `seconds`.
        """
        try:
            done = subprocess.run(
                [program(command), *arguments],
                env=self.environment(),
                input=input,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{command} {' '.join(arguments)}: no answer in {seconds:g} s.") from error
        if check and done.returncode != 0:
            raise ClusterError(f"{command} {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
        return done

    def sbatch(self, *arguments: str) -> str:
        """Submit: sbatch("--array=0-2", "--wrap", "hostname") → the job's id."""
        return self.run("sbatch", "--parsable", *arguments).stdout.strip().partition(";")[0]

    def squeue(self, *arguments: str) -> list[Row]:
        """A row a job or array task, finished ones too while slurmctld remembers them (MinJobAge, 300 s).

        Keys: JOBID, STATE, REASON, NODELIST, PARTITION, RESTARTS, WCKEY, NAME.
        """
        shown = "JobArrayID:|,State:|,Reason:|,NodeList:|,Partition:|,RestartCnt:|,WCKey:|,Name:"
        done = self.run("squeue", "--array", "--noheader", "--all", "--states=all", "--Format", shown, *arguments)
        keys = ("JOBID", "STATE", "REASON", "NODELIST", "PARTITION", "RESTARTS", "WCKEY", "NAME")
        return [row for row in _rows(done.stdout, keys) if self._mark in (None, row["WCKEY"])]

    def live(self) -> list[str]:
        """Ids of the jobs and array tasks that are queued, run, or are being ended."""
        return [row["JOBID"] for row in self.squeue("--states=PENDING,RUNNING,SUSPENDED,COMPLETING")]

    def sacct(self, *arguments: str, fields: str = "JobID,State,ExitCode,NodeList,Elapsed,JobName") -> list[Row]:
        """Rows of the accounting database, one a job, task and step. They come seconds late: wait for them."""
        done = self.run("sacct", "--parsable2", "--allusers", "--format", fields, *arguments)
        head, _, rest = done.stdout.partition("\n")
        return _rows(rest, head.split("|"))

    def job(self, job: str) -> Row:
        """All that slurmctld knows of a job or one array task (`12_3`), by scontrol's names."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job).stdout.splitlines()[0]
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def state(self, job: str) -> str:
        return self.job(job)["JobState"]

    # Waiting

    def wait(self, condition: Callable[[], Found | None], what: str, seconds: float = PATIENCE) -> Found:
        """The condition's first true value.

        Raises:
            ClusterError: it didn't come in time; the queue and the nodes as they are then.
        """
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                seen = [self.run(name, check=False).stdout for name in ("squeue", "sinfo")]
                raise ClusterError(f"In {seconds:g} s there was no {what}.\n{''.join(seen)}")
            time.sleep(0.1)
        return found

    def wait_for(self, job: str, *states: str, seconds: float = PATIENCE) -> Row:
        """The job, or array task, once it is in one of these states."""

        def there() -> Row | None:
            row = self.job(job)
            return row if row["JobState"] in states else None

        return self.wait(there, f"job {job} in state {' or '.join(states)}", seconds)

    def wait_for_accounting(self, job: str, *states: str, seconds: float = PATIENCE) -> Row:
        """The job's row in the accounting database, once it says so ("CANCELLED by 0" is CANCELLED)."""

        def there() -> Row | None:
            return next((row for row in self.sacct("-j", job) if row["State"].split()[0] in states), None)

        return self.wait(there, f"{' or '.join(states)} of job {job} in the accounting", seconds)

    # Jobs

    def release(self, job: str) -> None:
        """Let a requeued job start soon, instead of after `requeue_delay`.

        Not now: a slurmd that ended the job in this very second takes the new start for the old one, and it fails.
        """
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def end_in(self, job: str, seconds: int) -> None:
        """Give a running job a time limit in seconds from now (sbatch knows minutes only)."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))
        self.run("scontrol", "update", f"JobId={job}", f"EndTime={moment}")

    def clear(self) -> None:
        """As at the start: no jobs, every daemon up, every node idle. What is recorded of finished jobs stays.

        The view of one test clears its own jobs away.
        """
        if self._mark is None:
            self._restart_dead_daemons()
        self.wait(lambda: not self._end_jobs(), "empty queue")
        if self._mark is not None:
            return
        for node, state in self._node_states().items():
            if state.startswith(("down", "drain")):
                self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        self._wait_for_nodes(*self.nodes)

    def _end_jobs(self) -> list[str]:
        """End the jobs that there are, which may still send others: their ids."""
        jobs = self.live()
        if jobs:
            whose = f"--user={getpass.getuser()}" if self._mark is None else f"--wckey={self._mark}"
            self.run("scancel", whose, check=False)
            self._daemons.kill_tasks(self._mark)  # each has KillWait seconds left, and scancel no quicker signal
        return jobs

    def _restart_dead_daemons(self) -> None:
        if not self._daemons.alive("slurmdbd"):
            self.start_accounting()
        if not self._daemons.alive("slurmctld"):
            self.start_controller()
        for node in self.nodes:
            if not self._daemons.alive(node):
                self._daemons.start_node(node)

    # Faults

    def _must_be_whole(self) -> None:
        assert self._mark is None, "other tests use this cluster: ask for the fixture `fragile_cluster`"

    def kill_node(self, node: str) -> None:
        """SIGKILL to the slurmd and to all that it runs, as when the machine dies; Slurm notices later by itself."""
        self._must_be_whole()
        self._daemons.kill_node(node)

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node that was killed, and wait until it takes jobs."""
        self._daemons.start_node(node)
        self._wait_for_nodes(node)

    def stop_controller(self, number: int = signal.SIGTERM) -> None:
        """End slurmctld with this signal; jobs run on."""
        self._must_be_whole()
        self._daemons.end("slurmctld", number)

    def start_controller(self) -> None:
        self._daemons.start_controller()

    def restart_controller(self, number: int = signal.SIGTERM) -> None:
        """After SIGKILL it knows what it last saved: jobs of the last five seconds are forgotten, and killed."""
        self.stop_controller(number)
        self.start_controller()

    @contextmanager
    def configured(self, **options: str) -> Iterator[None]:
        """slurmctld with other values in slurm.conf, meanwhile: configured(MaxArraySize="5").

        It is restarted twice: after `scontrol reconfigure` alone it would say one value and enforce another.
        """
        self._reconfigure(options)
        try:
            yield
        finally:
            self._reconfigure({})

    def _reconfigure(self, options: dict[str, str]) -> None:
        self._daemons.write_slurm_conf(options)
        self.restart_controller()
        self._wait_for_nodes(*self.nodes)

    def stop_accounting(self) -> None:
        """End slurmdbd: sacct fails, slurmctld keeps what it has to report."""
        self._must_be_whole()
        self._daemons.end("slurmdbd")

    def start_accounting(self) -> None:
        self._daemons.start_accounting()

    def _node_states(self) -> dict[str, str]:
        shown = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").stdout
        return {name: state for name, _, state in (line.partition(" ") for line in shown.splitlines())}

    def _wait_for_nodes(self, *nodes: str, seconds: float = PATIENCE) -> None:
        def ready() -> bool:
            states = self._node_states()
            return all(states.get(node) in ("idle", "mixed", "allocated") for node in nodes)

        def dead() -> list[str]:
            return [node for node in nodes if not self._daemons.alive(node)]

        if not ready():
            self.run("scontrol", "reconfigure")  # after a restart of slurmctld it takes 4 s to ask the nodes by itself
        eventually(lambda: dead() or ready(), seconds, pause=0.1)
        if dead() or not ready():
            reasons = self.run("sinfo", "--list-reasons", check=False).stdout
            log = tail(self._daemons.log((dead() or ["slurmctld"])[0]))
            raise ClusterError(f"{', '.join(nodes)} not idle, but {self._node_states()}.\n{reasons}{log}")


def _held(folder: Path) -> IO[str]:
    """A hold on the cluster in a folder, which its guard heeds. The system lets go of it when this process ends."""
    hold = (folder / USERS).open()
    fcntl.flock(hold, fcntl.LOCK_SH)
    return hold


def _rows(shown: str, names: Iterable[str]) -> list[Row]:
    return list(csv.DictReader(shown.splitlines(), list(names), delimiter="|", quoting=csv.QUOTE_NONE))


if __name__ == "__main__":
    from tests.slurm.command import main

    main()

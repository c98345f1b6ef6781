"""Processes by id: start one that outlives us, know it again, end it, and find what a slurmd left behind.

A pid alone may be somebody else's by now, so it is kept together with the moment its process started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.packages import ClusterError

PATIENCE = 300.0
"""Seconds after which what a test waits for isn't coming: no claim about how fast it is, on however busy a machine."""

_STARTED: list[subprocess.Popen[bytes]] = []  # kept, so that they can be reaped and aren't warned about


@dataclass(frozen=True)
class Process:
    pid: int
    started: int  # clock ticks since boot

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """None where no such process is alive (a zombie isn't)."""
        for child in _STARTED:
            child.poll()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def send(self, number: int) -> None:
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self, number: int = signal.SIGTERM, seconds: float = 10.0) -> None:
        """Send the signal, wait, and SIGKILL what is still there after `seconds`."""
        self.send(number)
        if not eventually(lambda: not self.alive(), seconds):
            self.send(signal.SIGKILL)
            eventually(lambda: not self.alive(), 5.0)


def eventually(condition: Callable[[], object], seconds: float, pause: float = 0.02) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def launch(command: Sequence[str | Path], log: Path, environment: dict[str, str]) -> Process:
    """Start a daemon in a session of its own, its output appended to `log`."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    _STARTED.append(child)
    found = Process.of(child.pid)
    if found is None:
        raise ClusterError(f"{Path(command[0]).name} ended at once.\n{tail(log)}")
    return found


def tail(log: Path, lines: int = 15) -> str:
    """The end of a daemon's log, for an error message."""
    text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "\n".join([f"The end of {log}:", *(f"    {line}" for line in text)])


def processes() -> Iterator[Process]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := Process.of(int(entry))) is not None:
            yield found


def holding_sockets_below(folder: Path) -> list[Process]:
    """Whoever listens on a socket in `folder`: the steps of the slurmd whose spool folder it is.

    A step's own process has no other trace: its parent is gone, its command line and environment are overwritten.
    """
    listening = Path("/proc/net/unix").read_text().splitlines()
    wanted = {f"socket:[{line.split()[6]}]" for line in listening if f" {folder}/" in line}
    return [process for process in processes() if wanted & set(_descriptors(process.pid))]


def _descriptors(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")
        except OSError:
            continue


def with_environment(**wanted: str) -> list[Process]:
    """Processes that were started with these variables: the tasks of a job, however far they went from their parent."""
    lines = {f"{key}={value}".encode() for key, value in wanted.items()}
    return [process for process in processes() if lines <= set(_environment(process.pid))]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []

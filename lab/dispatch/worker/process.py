"""Identifies a process beyond its end.

Process ids are reused, and two containers may share a host name. The mark of a process identifies one process of one
boot of one machine.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Process:
    """A process on some machine.

    Attributes:
        host: the name of its machine.
        pid: its id there.
        mark: a text that no other process has.
    """

    host: str
    pid: int
    mark: str

    @classmethod
    def this(cls) -> Process:
        """The calling process."""
        mark = _mark(os.getpid())
        assert mark is not None, "a running process has a mark"
        return cls(socket.gethostname(), os.getpid(), mark)

    def alive(self) -> bool | None:
        """Whether it still runs. None if it runs on another host or in another container, and so can't be seen."""
        if self.host != socket.gethostname() or _pid_namespace() != self.mark.rpartition("/")[0]:
            return None
        return _mark(self.pid) == self.mark


def _pid_namespace() -> str:
    """The boot of the machine and the namespace of its process ids."""
    if sys.platform != "linux":
        return ""
    # A machine after a reboot and another machine of the same name look alike. For both, the heartbeat's age decides.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{os.readlink('/proc/self/ns/pid')}"


def _mark(pid: int) -> str | None:
    """The mark of the process with this id on this machine. None if there is none, or only a zombie."""
    if sys.platform == "linux":
        try:
            # The command's name is in parentheses, and may contain spaces and parentheses itself.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else f"{_pid_namespace()}/{fields[19]}"
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"/{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return None

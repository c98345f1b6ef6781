"""Processes that can be told apart after they are gone.

A process id is used again sooner or later, and two containers may share a host name; the mark of a process names one
process of one boot of one machine.
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
    """A process somewhere: `host` name, `pid`, and the `mark` that no other process bears."""

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
        """Whether it still runs; None where that can't be seen from here (another host, another container)."""
        if self.host != socket.gethostname() or _space() != self.mark.rpartition("/")[0]:
            return None
        return _mark(self.pid) == self.mark


def _space() -> str:
    """The machine's boot and the namespace in which process ids mean something."""
    if sys.platform != "linux":
        return ""
    # A machine that has booted anew since cannot be told from another one of its name: both are for time to judge.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{os.readlink('/proc/self/ns/pid')}"


def _mark(pid: int) -> str | None:
    """The mark of the process with this id here; None if there is none, or only a zombie's entry."""
    if sys.platform == "linux":
        try:
            # The command's name, in parentheses, may itself hold spaces and parentheses.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else f"{_space()}/{fields[19]}"
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"/{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return None

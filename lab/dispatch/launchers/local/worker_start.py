"""How the local launcher starts worker processes: each by a command, or forked from a nursery that has imported torch.

Each worker leads a session of its own: Ctrl-C in a terminal reaches all of its processes, but the launcher decides when
workers stop.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

NURSERY = (sys.executable, "-m", "lab.dispatch.launchers.local.nursery")
Streams = tuple[int, int, int]
"""File descriptors of a process's standard input, output and error."""


class Child(Protocol):
    """A process that was started."""

    def poll(self) -> int | None:
        """Its return code, negative for a signal; None while it runs."""

    def wait(self) -> None:
        """Wait until it has ended."""

    def kill(self) -> None:
        """Kill it and its child processes."""

    def start_error(self) -> str | None:
        """The last line of what prevented its start; None if nothing is known to have."""


class Starter(Protocol):
    """Starts workers."""

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], streams: Streams) -> Child:
        """Start a worker. It may run only a while later.

        Args:
            arguments: of the worker's command.
            environment: the whole environment.
            streams: the worker's.
        """

    def close(self) -> None:
        """Free what starts workers, after all of them have ended."""


class CommandStarter:
    """Starts each worker by a command."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], streams: Streams) -> Child:
        return CommandChild([*self._command, *arguments], environment, streams)

    def close(self) -> None:
        pass


class CommandChild:
    """A process of a command."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], streams: Streams) -> None:
        stdin, stdout, stderr = streams
        self._process = subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, start_new_session=True
        )

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self) -> None:
        self._process.wait()

    def kill(self) -> None:
        kill_group(self._process.pid)

    def start_error(self) -> str | None:
        return None


class Nursery:
    """Forks workers from a process that has imported torch: `lab.dispatch.launchers.local.nursery`.

    If that process ends by itself, such as by a failed import, its workers end with it, with its return code. The next
    worker gets a new one.

    Args:
        environment: of that process. Libraries read the variables for their threads when they are imported.
        sweep: folder of the sweep that its seconds are recorded for; None to record none.
    """

    def __init__(self, environment: Mapping[str, str], sweep: Path | None = None) -> None:
        self._environment = environment
        self._command = [*NURSERY, *(["--seconds", str(sweep)] if sweep is not None else [])]
        self._process: _NurseryProcess | None = None

    @staticmethod
    def is_possible() -> bool:
        """Whether this system can fork a process that has imported torch, and tell when such a process ends."""
        return sys.platform == "linux" and hasattr(os, "pidfd_open")

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], streams: Streams) -> Child:
        if self._process is None or self._process.return_code() is not None:
            self.close()
            self._process = _NurseryProcess(self._command, self._environment)
        return self._process.fork(arguments, environment, streams)

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


class _NurseryProcess:
    """One nursery process, and what it has said of its workers."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        self._ids = itertools.count()
        self._unread = b""
        self._ended: int | None = None
        self.pids: dict[int, int] = {}
        self.codes: dict[int, int] = {}

    def fork(self, arguments: Sequence[str], environment: Mapping[str, str], streams: Streams) -> ForkedChild:
        """Ask for a worker."""
        child = next(self._ids)
        request = {"id": child, "arguments": list(arguments), "environment": dict(environment)}
        data = json.dumps(request).encode() + b"\n"
        with contextlib.suppress(OSError):  # it has ended, as `return_code` will report
            sent = socket.send_fds(self._socket, [data], list(streams))
            self._socket.sendall(data[sent:])
        return ForkedChild(self, child)

    def listen(self, seconds: float | None = 0.0) -> None:
        """Take in its answers; wait for one at most so many seconds."""
        if self._ended is not None or not select.select([self._socket], [], [], seconds)[0]:
            return
        try:
            chunk = self._socket.recv(1 << 16)
        except OSError:
            chunk = b""
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for answer in map(json.loads, lines):
            for kind, values in (("pid", self.pids), ("code", self.codes)):
                if kind in answer:
                    values[answer["id"]] = answer[kind]
        if not chunk:
            self._ended = self._process.wait() or 1
            for child, pid in self.pids.items():  # nobody could tell how they end
                if child not in self.codes:
                    kill_group(pid)
                    _wait_for_end(pid)

    def return_code(self) -> int | None:
        """Its return code, which is never 0; None while it runs."""
        self.listen()
        return self._ended

    def kill(self) -> None:
        """Kill it."""
        kill_group(self._process.pid)

    def last_error_line(self) -> str | None:
        return last_line(self._errors)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()
        self._errors.close()


class ForkedChild:
    """A worker that a nursery forks."""

    def __init__(self, nursery: _NurseryProcess, number: int) -> None:
        self._nursery, self._number = nursery, number

    def poll(self) -> int | None:
        self._nursery.listen()
        code = self._nursery.codes.get(self._number)
        return self._nursery.return_code() if code is None else code

    def wait(self) -> None:
        while self.poll() is None:
            self._nursery.listen(None)

    def kill(self) -> None:
        pid = self._nursery.pids.get(self._number)
        if pid is None:
            self._nursery.kill()  # which hasn't forked it yet
        else:
            kill_group(pid)

    def start_error(self) -> str | None:
        return None if self._number in self._nursery.pids else self._nursery.last_error_line()


def kill_group(leader: int) -> None:
    """Kill a process that leads a group, and the processes of that group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _wait_for_end(pid: int, patience: float = 5.0) -> None:
    """Wait until a process that was killed is gone, so that its run can be claimed."""
    end = time.monotonic() + patience
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.kill(pid, 0)
            time.sleep(0.01)


def last_line(file: IO[bytes]) -> str | None:
    """The last line of a file that a process has written; None if it is empty."""
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else None

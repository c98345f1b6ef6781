"""Worker processes as the local launcher sees them: given a run, asked to stop, listened to, and buried."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from lab.dispatch.worker import failure
from lab.dispatch.worker.attempt import adopt_result
from lab.dispatch.worker.claim import Claim
from lab.records import RunFolder

_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS}


class Worker:
    """One worker process, `lab.dispatch.worker --serve` or one that speaks like it.

    Its standard input is this process's to hold open: when this process ends, in whatever way, the worker sees the end
    of it and stops.

    Args:
        command: starts the worker; `--serve` and `--threads` are added.
        slot: which share of the machine it takes.
    Attributes:
        run: what it is at; None while it waits.
        attempts: of that run before this one.
        retired: it is ending, and takes no more runs.
        silent: it has closed its output, and nothing is to be waited for.
    """

    def __init__(self, command: Sequence[str], slot: int, threads: int, environment: Mapping[str, str]) -> None:
        self.slot = slot
        self.run: RunFolder | None = None
        self.attempts = 0
        self.retired = self.silent = False
        self._unread = b""
        self._memory_kills = failure.memory_kills()
        # What it says outside runs, such as why it couldn't start. A file, as nobody reads a pipe meanwhile.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, "--serve", "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **environment},
            # Ctrl-C in a terminal reaches all of its processes: this one decides when workers stop.
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def fileno(self) -> int:
        """For select: readable when the worker has answered, or ended."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def give(self, run: RunFolder, attempts: int) -> None:
        """Have it run a run of which so many attempts have been seen."""
        self.run, self.attempts = run, attempts
        self._send({"run": str(run.path), "attempts": attempts})

    def ask_to_stop(self, reason: str) -> None:
        """Have it checkpoint what it is at, and end."""
        self.retired = True
        self._send({"stop": reason})

    def kill(self) -> None:
        """End it and its child processes now."""
        self.retired = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def answer(self) -> int | None:
        """The exit code of its run, if it has answered; it then waits for the next, or is ending."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.fileno(), 65536):
                self._unread += chunk
            self.silent = True
        line, end, rest = self._unread.partition(b"\n")
        if not end:
            return None
        self._unread, self.run = rest, None
        return int(json.loads(line)["code"])

    def ended(self) -> int | None:
        """Its return code once it has ended, negative for a signal; its child processes are ended with it."""
        code = self._process.poll()
        if code is not None and code != 0:
            self.kill()
        return code

    def starved(self) -> bool:
        """Whether, since it was started, the kernel has killed some process here for want of memory."""
        return failure.memory_kills() != self._memory_kills

    def last_words(self) -> str | None:
        """The last line that it wrote outside of runs."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else None

    def close(self) -> None:
        """End its input and free what it took here. It stops if it hasn't."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                file.close()

    def wait(self) -> None:
        """Wait for the process to have ended."""
        self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `ended` will tell
            self._process.stdin.write(json.dumps(message).encode() + b"\n")


def bury(run: RunFolder, attempts: int, code: int, last_words: str | None, *, starved: bool = False) -> bool:
    """Leave in a run's folder how its worker ended, where the worker itself could not.

    Args:
        run: what the worker was at when it ended.
        attempts: of that run before the worker was given it.
        code: return code of the process.
        last_words: the last line that it wrote outside of the run's log.
        starved: whether the kernel has killed for want of memory meanwhile.
    Returns:
        False if somebody else has taken the run over meanwhile; nothing is changed then.
    """
    claim = Claim.take(run.path)
    if claim is None:
        return False
    with claim:
        state = adopt_result(run)
        begun = state.attempts != attempts
        if state.status == "running" or not (begun or state.ended or code == 0):
            run.state = state.replace(**_obituary(code, last_words, starved))
    return True


def _obituary(code: int, last_words: str | None, starved: bool) -> dict[str, Any]:
    said = f": {last_words}" if last_words else ""
    if code >= 0:
        reason = f"the worker ended with exit code {code} in the middle of the run{said}"
        return {"status": "failed", "failure": "bug", "reason": reason}
    name = signal.Signals(-code).name
    if -code in _CRASHES:
        return {"status": "failed", "failure": "bug", "reason": f"the worker crashed ({name}){said}"}
    if -code == signal.SIGKILL and starved:
        reason = "the kernel killed the worker for want of memory (SIGKILL)"
        return {"status": "failed", "failure": "out_of_memory", "reason": reason}
    hint = "; unless somebody did that, the machine ran out of memory" if -code == signal.SIGKILL else ""
    return {"status": "lost", "failure": "interrupted", "reason": f"the worker was killed ({name}){hint}"}

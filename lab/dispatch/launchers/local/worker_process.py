"""A worker process, from the local launcher's side: assign it runs, read its answers, stop it, record its exit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Mapping
from typing import Any

from lab.dispatch.launchers.local.worker_start import Starter, last_line
from lab.dispatch.worker import failure
from lab.dispatch.worker.attempt import adopt_result
from lab.dispatch.worker.claim import Claim
from lab.records import RunFolder

_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS}


class WorkerProcess:
    """One process of `lab.dispatch.worker --serve`, or of a command with the same protocol.

    This process holds the worker's standard input open. When this process ends, for whatever reason, the worker reads
    the end of its input and stops.

    Args:
        starter: starts the worker, with the arguments `--serve` and `--threads`.
        slot: its share of the machine, 0 … workers - 1.
        threads: for numerical libraries.
        environment: variables to add to this process's environment.
    Attributes:
        run: the run that it works on; None while it is idle.
        attempts: made of that run before this one.
        retired: whether it is about to end and takes no more runs.
        output_closed: whether it has closed its standard output, so that no answer can follow.
    """

    def __init__(self, starter: Starter, slot: int, threads: int, environment: Mapping[str, str]) -> None:
        self.slot = slot
        self.run: RunFolder | None = None
        self.attempts = 0
        self.retired = self.output_closed = False
        self._unread = b""
        self._memory_kills = failure.memory_kills()
        # Errors outside of runs, such as a failed start. A file, because nobody would drain a pipe.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        its_input, requests = os.pipe()
        answers, its_output = os.pipe()
        self._requests, self._answers = open(requests, "wb", buffering=0), open(answers, "rb", buffering=0)  # noqa: SIM115
        streams = its_input, its_output, self._errors.fileno()
        try:
            self._process = starter.start(
                ["--serve", "--threads", str(threads)], {**os.environ, **environment}, streams
            )
        finally:
            # Only the worker may hold these ends: the end of its input, or of its output, would pass unnoticed.
            os.close(its_input)
            os.close(its_output)
        os.set_blocking(answers, False)

    def fileno(self) -> int:
        """For `selectors`: readable when the worker has answered or ended."""
        return self._answers.fileno()

    def assign(self, run: RunFolder, attempts: int) -> None:
        """Have the worker do a run. `attempts`: the number of attempts made of it so far."""
        self.run, self.attempts = run, attempts
        self._send({"run": str(run.path), "attempts": attempts})

    def request_stop(self, reason: str) -> None:
        """Have the worker write a checkpoint of its run and end."""
        self.retired = True
        self._send({"stop": reason})

    def kill(self) -> None:
        """Kill the worker and its child processes."""
        self.retired = True
        self._process.kill()

    def answer(self) -> int | None:
        """The exit code of its run, or None while it has none. After an answer the worker is idle or about to end."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.fileno(), 65536):
                self._unread += chunk
            self.output_closed = True
        line, end, rest = self._unread.partition(b"\n")
        if not end:
            return None
        self._unread, self.run = rest, None
        return int(json.loads(line)["code"])

    def poll(self) -> int | None:
        """The return code, negative for a signal; None while the process runs. A crash ends its child processes too."""
        return_code = self._process.poll()
        if return_code is not None and return_code != 0:
            self.kill()
        return return_code

    def memory_was_short(self) -> bool:
        """Whether the kernel has killed a process here for lack of memory since the worker started."""
        return failure.memory_kills() != self._memory_kills

    def last_error_line(self) -> str | None:
        """The last line that it wrote to standard error outside of runs, or that its start failed with."""
        return last_line(self._errors) or self._process.start_error()

    def close(self) -> None:
        """Close its input, which stops it, and its output."""
        for file in (self._requests, self._answers, self._errors):
            with contextlib.suppress(OSError):
                file.close()

    def wait(self) -> None:
        """Wait until the process has ended."""
        self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended, as `poll` will report
            self._requests.write(json.dumps(message).encode() + b"\n")


def record_worker_exit(
    run: RunFolder, attempts: int, return_code: int, last_error_line: str | None, *, memory_was_short: bool = False
) -> bool:
    """Write how a worker process ended to the folder of its run, if the worker could not.

    Args:
        run: the run that the worker was assigned when it ended.
        attempts: made of that run before it was assigned.
        return_code: of the process.
        last_error_line: the last line that it wrote outside of the run's log.
        memory_was_short: whether the kernel has killed a process for lack of memory meanwhile.
    Returns:
        False if another process has claimed the run meanwhile; nothing is written then.
    """
    claim = Claim.take(run.path)
    if claim is None:
        return False
    with claim:
        state = adopt_result(run)
        has_begun = state.attempts != attempts
        if state.status == "running" or not (has_begun or state.ended or return_code == 0):
            run.state = state.replace(**_exit_state(return_code, last_error_line, memory_was_short))
    return True


def _exit_state(return_code: int, last_error_line: str | None, memory_was_short: bool) -> dict[str, Any]:
    detail = f": {last_error_line}" if last_error_line else ""
    if return_code >= 0:
        reason = f"the worker ended with exit code {return_code} in the middle of the run{detail}"
        return {"status": "failed", "failure": "bug", "reason": reason}
    name = signal.Signals(-return_code).name
    if -return_code in _CRASHES:
        return {"status": "failed", "failure": "bug", "reason": f"the worker crashed ({name}){detail}"}
    if -return_code == signal.SIGKILL and memory_was_short:
        reason = "the kernel killed the worker for lack of memory (SIGKILL)"
        return {"status": "failed", "failure": "out_of_memory", "reason": reason}
    hint = "; unless somebody did that, the machine ran out of memory" if -return_code == signal.SIGKILL else ""
    return {"status": "lost", "failure": "interrupted", "reason": f"the worker was killed ({name}){hint}"}

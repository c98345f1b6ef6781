"""Processes of a test's own that have torch imported already: forked from one that does nothing else.

They can be killed, frozen and waited for like any; environment, folder and output are their own.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

PRELOADED = ["torch", "lab.training.fit", "tests.training.tiny"]


class Forked:
    """A process that runs a function, which must be one of a module, and ends with the exit code that it returns.

    Attributes:
        pid: the process's.
    """

    def __init__(
        self,
        function: Callable[..., int | None],
        *arguments: object,
        environment: Mapping[str, str],
        output: Path,
        cwd: Path | None = None,
    ) -> None:
        """
        Args:
            environment: all of it.
            output: a file that gets what it writes, to standard output and error.
        """
        task = (function, arguments, dict(environment), str(output), str(cwd or Path.cwd()))
        self._process = _context().Process(target=_run, args=task, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, seconds: float = 300.0) -> int:
        """Its exit code, negative where a signal ended it.

        Raises:
            TimeoutError: it still runs.
        """
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} still runs after {seconds:g} s")
        return self._process.exitcode


@functools.cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _run(
    function: Callable[..., int | None], arguments: Sequence[object], environment: Mapping[str, str], out: str, cwd: str
) -> None:
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(function(*arguments))

"""Start processes that have already imported torch and the lab: see `tests.fork_server`.

They can be killed, stopped and waited for like other processes, and have their own environment, working folder and
standard streams.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]

PYTHON = str(REPOSITORY / "tests" / "python")
"""A script that replaces the interpreter: `PYTHON -m MODULE …` forks from the server instead of importing torch."""

REAL_PYTHON = os.environ.get("TESTS_PYTHON", sys.executable)
"""The real interpreter."""

SOCKET = "TESTS_FORK_SERVER"
"""The environment variable with the path of the server's socket."""


class Forked:
    """A forked process that calls a function and exits with the code that the function returns.

    Attributes:
        pid: the id of the process.
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
            function: a function at the top level of a module, so that it can be pickled.
            arguments: the function's arguments.
            environment: the whole environment of the process.
            output: a file to which standard output and standard error are appended.
            cwd: the working folder; by default that of this process.
        """
        request = {"function": base64.b64encode(pickle.dumps((function, arguments))).decode(), "arguments": []}
        with open(output, "ab") as file, open(os.devnull, "rb") as nothing:
            self._connection, self.pid = start(
                request, environment, cwd or Path.cwd(), (nothing.fileno(), file.fileno(), file.fileno())
            )
        self._code: int | None = None

    def send_signal(self, number: int) -> None:
        if self._code is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, seconds: float = 300.0) -> int:
        """Wait for the process to end.

        Args:
            seconds: the longest time to wait.
        Returns:
            The exit code; for a process that a signal ended, the negative number of the signal.
        Raises:
            TimeoutError: the process still runs after that time.
        """
        if self._code is None:
            self._connection.settimeout(seconds)
            try:
                self._code = int(answer(self._connection)["code"])
            except TimeoutError:
                raise TimeoutError(f"process {self.pid} still runs after {seconds:g} s") from None
            self._connection.close()
        return self._code


def run(
    module: str, *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE …` until it ends.

    Args:
        cwd: the working folder; by default that of this process.
        environment: the whole environment; by default that of this process.
    Returns:
        The exit code and the output.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
        connection, _ = start(
            {"module": module, "arguments": arguments},
            os.environ if environment is None else environment,
            cwd or Path.cwd(),
            (nothing.fileno(), out.fileno(), err.fileno()),
        )
        with connection:
            code = int(answer(connection)["code"])
        texts = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in (out, err)]
    return subprocess.CompletedProcess([module, *arguments], code, *texts)


def script(path: Path, *arguments: str) -> None:
    """Run a script as Python would. Pass this function to `Forked`."""
    import runpy

    sys.argv = [str(path), *arguments]
    sys.path[0] = str(path.parent)
    runpy.run_path(str(path), run_name="__main__")


def start(
    request: Mapping[str, object], environment: Mapping[str, str], cwd: Path, files: tuple[int, int, int]
) -> tuple[socket.socket, int]:
    """Ask the server to fork a process.

    Args:
        request: what to run: `module` or `function`, and `arguments`.
        environment: the whole environment of the process.
        cwd: its working folder.
        files: the file descriptors of its standard input, output and error.
    Returns:
        The connection to the server, and the id of the process.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server())
    message = {"environment": dict(environment), "cwd": str(cwd), "executable": PYTHON, **request}
    data = json.dumps(message).encode() + b"\n"
    n_sent = socket.send_fds(connection, [data], list(files))
    connection.sendall(data[n_sent:])
    return connection, int(answer(connection)["pid"])


def answer(connection: socket.socket) -> dict[str, Any]:
    """The next answer of the server: a line of JSON.

    Raises:
        ConnectionError: the server has ended.
    """
    data = b""
    while not data.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("the fork server has ended")
        data += byte
    line: dict[str, Any] = json.loads(data)
    return line


@functools.cache
def server() -> str:
    """The socket of the fork server of this pytest run, which is started if it doesn't run yet."""
    # The workers of pytest-xdist share the server of their parent, which is the process that the user started.
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    folder = Path(tempfile.gettempdir()) / f"lab-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{owner}.socket"
    with open(folder / f"{owner}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_served(path):
            path.unlink(missing_ok=True)  # of an earlier process with the same id
            process = subprocess.Popen(
                [REAL_PYTHON, "-m", "tests.fork_server", str(path), str(owner)],
                cwd=REPOSITORY,
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # a fork doesn't copy threads
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            while not path.exists():
                if process.poll() is not None:
                    raise RuntimeError(f"the fork server ended with code {process.returncode}")
                time.sleep(0.02)
    return str(path)


def _is_served(path: Path) -> bool:
    """Whether a server listens on a socket. A server that was killed leaves its socket behind."""
    with socket.socket(socket.AF_UNIX) as attempt:
        return attempt.connect_ex(str(path)) == 0

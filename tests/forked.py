"""Processes of a test's own that have torch and the lab imported already: see `tests.fork_server`.

They can be killed, frozen and waited for like any; environment, folder and standard streams are their own.
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
"""Stands for the interpreter in a command line: `PYTHON -m MODULE …` is forked and needs no second to import torch."""

REAL_PYTHON = os.environ.get("TESTS_PYTHON", sys.executable)

SOCKET = "TESTS_FORK_SERVER"
"""The environment variable that tells PYTHON where the server listens."""


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
            output: a file to which standard output and error are appended.
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
        """Its exit code, negative where a signal ended it.

        Raises:
            TimeoutError: it still runs.
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
    """`python -m MODULE …` to its end, with its exit code and output.

    Args:
        cwd: by default this process's folder.
        environment: all of it; by default this process's.
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
    """To be forked: a script, as Python runs it."""
    import runpy

    sys.argv = [str(path), *arguments]
    sys.path[0] = str(path.parent)
    runpy.run_path(str(path), run_name="__main__")


def start(
    request: Mapping[str, object], environment: Mapping[str, str], cwd: Path, files: tuple[int, int, int]
) -> tuple[socket.socket, int]:
    """Have the server fork a process: the connection to it, and the process's id."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server())
    whole = {"environment": dict(environment), "cwd": str(cwd), "executable": PYTHON, **request}
    data = json.dumps(whole).encode() + b"\n"
    sent = socket.send_fds(connection, [data], list(files))
    connection.sendall(data[sent:])
    return connection, int(answer(connection)["pid"])


def answer(connection: socket.socket) -> dict[str, Any]:
    """The server's next line."""
    data = b""
    while not data.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("the fork server has gone")
        data += byte
    line: dict[str, Any] = json.loads(data)
    return line


@functools.cache
def server() -> str:
    """Where the server of this pytest run listens; it is started where nobody has."""
    # All workers of pytest-xdist are children of the process that a person started.
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    folder = Path(tempfile.gettempdir()) / f"lab-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{owner}.socket"
    with open(folder / f"{owner}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            process = subprocess.Popen(
                [REAL_PYTHON, "-m", "tests.fork_server", str(path), str(owner)],
                cwd=REPOSITORY,
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # threads don't come along into a fork
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            while not path.exists():
                if process.poll() is not None:
                    raise RuntimeError(f"the fork server ended with code {process.returncode}")
                time.sleep(0.02)
    return str(path)
